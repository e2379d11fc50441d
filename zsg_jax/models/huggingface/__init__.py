"""Folders in the Hugging Face layout, in and out; the rest of the project knows only its own.

The layout is a folder with `config.json` and either `model.safetensors` or shards named by
`model.safetensors.index.json`. Nothing is downloaded, nothing is unpickled, and whatever in the
config would change the computation without this project computing it is refused by name.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

from zsg_jax.models import bert
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.huggingface import layouts, weights
from zsg_jax.models.huggingface.configs import (
    config_json,
    config_path,
    find_config,
    read_bert_config,
    read_config,
)
from zsg_jax.models.model import abstract
from zsg_jax.models.placement import Params

__all__ = [
    "check_folder",
    "config_json",
    "find_config",
    "load",
    "load_bert",
    "read_bert_config",
    "read_config",
]


def load(folder: str | Path, model: ModelConfig, wanted: Params | None = None) -> Params:
    """The weights in `folder` as `apply` takes them.

    Args:
        folder: holds `model.safetensors` or its shards, in float32, float16 or bfloat16.
        model: what `read_config` gives for it, with any `vocab_padding`.
        wanted: the parameters' nested dict of `jax.ShapeDtypeStruct`, with the dtype and the
            sharding of each; every device then gets its own part alone, and no host holds more
            than its devices do and one file. None: float32 on one device.

    Raises:
        UserError: a file or tensor is missing, damaged, of another shape, or one too many.
    """
    opened, places, shapes = open_folder(folder, model)
    return weights.load(opened, places, shapes, wanted or abstract(model)[1])


def check_folder(folder: str | Path, model: ModelConfig) -> str:
    """Looks at every tensor's name, shape and dtype, reads none, and fingerprints the files.

    Returns:
        SHA-256 over config.json and the weight files.

    Raises:
        UserError: as `load`, but before any work is done.
    """
    opened, places, shapes = open_folder(folder, model)
    weights.check_all(opened, places, shapes)
    digest = hashlib.sha256()
    for path in sorted({config_path(folder), *(one.path for one in opened.tensors.values())}):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def open_folder(
    folder: str | Path, model: ModelConfig
) -> tuple[weights.Weights, weights.Places, Params]:
    """The tensors of a folder, where each array lies, and the shapes it has there, unpadded."""
    shapes = unpadded(model)
    layout = layouts.LAYOUTS[model.family]
    opened, places = layouts.open_weights(folder, layout, shapes, tied="lm_head" not in shapes)
    return opened, places, shapes


def unpadded(model: ModelConfig) -> Params:
    """The shapes of the parameters of `model` without its `vocab_padding`."""
    return abstract(replace(model, vocab_padding=0))[1]


def load_bert(folder: str | Path, config: bert.BertConfig) -> Params:
    """The weights of the BERT in `folder` as `bert.apply` takes them, float32; no pooler, no head.

    Raises:
        UserError: a file or tensor is missing, damaged, of another shape, or one too many.
    """
    _, shapes = bert.abstract(config)
    opened, places = layouts.open_weights(folder, layouts.LAYOUTS["bert"], shapes, tied=False)
    return weights.load(opened, places, shapes, shapes)
