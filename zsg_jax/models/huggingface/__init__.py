"""Folders in the Hugging Face layout, in and out; the rest of the project knows only its own.

The layout is a folder with `config.json` and either `model.safetensors` or shards named by
`model.safetensors.index.json`. Nothing is downloaded, nothing is unpickled, and whatever in the
config would change the computation without this project computing it is refused by name.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.huggingface.configs import (
    config_json,
    config_path,
    find_config,
    read_config,
)
from zsg_jax.models.huggingface.encoders import (
    hidden_states,
    load_encoder,
    read_encoder_config,
)
from zsg_jax.models.huggingface.layouts import HEADS, LAYOUTS, Layout
from zsg_jax.models.huggingface.weights import Tensor, Weights
from zsg_jax.models.model import abstract
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import file_digest, read_json
from zsg_jax.runtime.foreign import reads

__all__ = [
    "check_folder",
    "config_json",
    "eos_ids",
    "files_digest",
    "find_config",
    "hidden_states",
    "load",
    "load_encoder",
    "load_reward",
    "read_config",
    "read_encoder_config",
    "read_reward_config",
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
    return open_weights(folder, model).load(wanted or abstract(model)[1])


def eos_ids(folder: Path | None) -> tuple[int, ...]:
    """The tokens that end a text, as the folder's generation_config.json lists them, if it does."""
    found = read_json(folder / "generation_config.json") if folder else None
    ids = (found or {}).get("eos_token_id")
    ids = () if ids is None else (ids,) if isinstance(ids, int) else ids
    check(
        isinstance(ids, list | tuple) and all(type(one) is int and one >= 0 for one in ids),
        f"{folder}/generation_config.json: eos_token_id={ids!r} is no id and no list of ids",
    )
    return tuple(ids)


def check_folder(folder: str | Path, model: ModelConfig) -> str:
    """Looks at every tensor's name, shape and dtype, reads none, and fingerprints the files.

    Returns:
        SHA-256 over config.json and the weight files.

    Raises:
        UserError: as `load`, but before any work is done.
    """
    weights = open_weights(folder, model)
    weights.check()
    return _digest({one.path for one in weights.tensors.values()}, folder)


def files_digest(folder: str | Path) -> str:
    """SHA-256 over config.json and the weight files of a folder of any model."""
    return _digest(Path(folder).glob("*.safetensors"), folder)


def _digest(files: Iterable[Path], folder: str | Path) -> str:
    digest = hashlib.sha256()
    for path in sorted({config_path(folder), *files}):
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


@reads
def open_weights(folder: str | Path, model: ModelConfig) -> Weights:
    """The tensors of a folder, and where the arrays of `model` lie in them."""
    return Weights(folder, LAYOUTS[model.family], unpadded(model))


def unpadded(model: ModelConfig) -> Params:
    """The shapes of the parameters of `model` without its `vocab_padding`."""
    return abstract(replace(model, vocab_padding=0))[1]


def read_reward_config(folder: str | Path) -> ModelConfig:
    """The config of the reward model in `folder`, as one of a tied head, which it does not have.

    Raises:
        UserError: as `read_config`; or the family is none that reward models are read of.
    """
    config = read_config(folder, any_head=True)
    if not isinstance(config, DecoderConfig):
        raise UserError(
            f"{folder}: is of the family {config.family}; reward models of llama, mistral, qwen2 "
            "and qwen3 are read: take another"
        )
    return replace(config, tie_embeddings=True)


def load_reward(folder: str | Path, model: ModelConfig, wanted: Params) -> Params:
    """The weights of a reward model: those of `model`, and `reward`/`kernel`, (hidden_size, 1).

    Args:
        model: what `read_reward_config` gives for it, with any `vocab_padding`.
        wanted: as `load` takes it.

    Raises:
        UserError: as `load`; or there is no head, which would be random, or one of several scores.
    """

    def layout(tensors: Mapping[str, Tensor]) -> Layout:
        heads = [name for name in HEADS if f"{name}.weight" in tensors]
        check(
            len(heads) == 1,
            f"{folder}: has no {' or '.join(f'{name}.weight' for name in HEADS)}, so its rewards "
            "would be random; give a reward model"
            if not heads
            else f"{folder}: has two heads, {' and '.join(heads)}; leave one of them",
        )
        scores = tensors[f"{heads[0]}.weight"].shape[0]
        check(
            scores == 1,
            f"{folder}: {heads[0]}.weight gives {scores} scores (num_labels); a reward model gives "
            "one: take another",
        )
        rotary = LAYOUTS[model.family]
        return rotary._replace(modules={**rotary.modules, "reward": heads[0]})

    head = jax.ShapeDtypeStruct((model.hidden_size, 1), jnp.float32)
    shapes = unpadded(model) | {"reward": {"kernel": head}}
    return Weights(folder, layout, shapes).load(wanted)
