"""Adapters in the layout of Hugging Face's PEFT: adapter_config.json, adapter_model.safetensors."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from zsg_jax.models.dtypes import DTYPES, SAME
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.huggingface import unpadded
from zsg_jax.models.huggingface.layouts import LAYOUTS, Place, places
from zsg_jax.models.huggingface.write import as_readable_as, in_dtype
from zsg_jax.models.lora import A, B, LoRA
from zsg_jax.models.placement import Params
from zsg_jax.runtime.files import write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BEFORE = "base_model.model."


class _Piece(NamedTuple):
    """One adapter of one layer: a (inputs, rank), b (rank, outputs), and where its kernel lies."""

    a: np.ndarray
    b: np.ndarray
    place: Place


def write_adapters(
    folder: Path,
    model: ModelConfig,
    adapters: Params,
    lora: LoRA,
    *,
    base: str,
    dtype: str = SAME,
) -> None:
    """Writes adapters for `peft.PeftModel.from_pretrained` to `folder`, which exists.

    A kernel that is a part of a tensor there (GPT-2's c_attn) becomes a part of an adapter of that
    tensor, whose rank is the sum of its parts': A stacked, B block by block.

    Args:
        adapters: as `lora.split` gives them, float32 or bfloat16.
        base: the model that they adapt, as PEFT is to find it.
        dtype: one of `DTYPES`, or `SAME`: float32, as they are trained.
    """
    layout = LAYOUTS[model.family]
    kernels = places(layout, unpadded(model))
    flat = {
        path: np.asarray(leaf, np.float32)
        for path, leaf in traverse_util.flatten_dict(adapters, sep=".").items()
    }
    pieces: dict[str, list[_Piece]] = {}
    for path, a in flat.items():
        module, _, kind = path.rpartition(".")
        if kind == A:
            for layer, place in enumerate(kernels[f"{module}.kernel"]):
                piece = _Piece(a[layer], flat[f"{module}.{B}"][layer], place)
                pieces.setdefault(place.name.removesuffix(".weight"), []).append(piece)
    tensors, ranks = {}, {}
    for name, parts in pieces.items():
        parts.sort(key=lambda piece: piece.place.start)
        # safetensors writes memory as it lies.
        a = np.ascontiguousarray(np.concatenate([piece.a.T for piece in parts]))
        tensors[f"{BEFORE}{name}.lora_A.weight"] = a
        tensors[f"{BEFORE}{name}.lora_B.weight"] = _blocks(parts)
        ranks[_target(name)] = lora.rank * len(parts)
    if dtype != SAME:
        tensors = {name: in_dtype(name, one, DTYPES[dtype]) for name, one in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = folder / CONFIG
    write_json(config, _config(lora, ranks, base=base, fan_in_fan_out=not layout.transposed))
    as_readable_as(config, folder.glob("*.safetensors"))


def _blocks(parts: list[_Piece]) -> np.ndarray:
    """(outputs, ranks) of the whole tensor: each part's B in its rows and its columns."""
    rank = len(parts[0].b)
    outputs = parts[0].place.whole or parts[0].b.shape[1]
    whole = np.zeros((outputs, rank * len(parts)), np.float32)
    for column, piece in enumerate(parts):
        rows = slice(piece.place.start, piece.place.start + piece.b.shape[1])
        whole[rows, column * rank : (column + 1) * rank] = piece.b.T
    return whole


def _target(name: str) -> str:
    """What PEFT matches a module by: its name inside a layer, as "self_attn.q_proj"."""
    return re.sub(r"^.*\.\d+\.", "", name)


def _config(
    lora: LoRA, ranks: dict[str, int], *, base: str, fan_in_fan_out: bool
) -> dict[str, Any]:
    other = {name: rank for name, rank in ranks.items() if rank != lora.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": sorted(ranks),
        "rank_pattern": other,
        # PEFT scales by alpha over rank, which is to stay what it was.
        "alpha_pattern": {name: lora.scale * rank for name, rank in other.items()},
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "none",
        "init_lora_weights": True,
        "use_rslora": False,
        "modules_to_save": None,
    }
