"""Adapters of Hugging Face's PEFT, added to the kernels that they adapt."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import load_file

from zsg_jax.models.families import ModelConfig
from zsg_jax.models.huggingface import unpadded
from zsg_jax.models.huggingface.adapters import BEFORE, CONFIG, WEIGHTS
from zsg_jax.models.huggingface.layouts import LAYOUTS, Place, places
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import need_json

# What would change the sum that an adapter adds, by the values that are computed here.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, []),
    "target_parameters": (None, []),
    # Others change the model's own weights.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
# What changes nothing that is computed, or is read below.
_KNOWN = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    ]
)


def add_adapters(params: Params, model: ModelConfig, folder: Path) -> Params:
    """A model's parameters with the adapters of a folder added to their kernels.

    Args:
        params: as `model` has them, on any mesh; dtypes and shardings stay.
        folder: holds adapter_config.json and adapter_model.safetensors.

    Raises:
        UserError: a file is missing or damaged, a setting is not computed here, or an adapter fits
            no kernel.
    """
    config = need_json(folder / CONFIG, ("peft_type", "r", "lora_alpha"), "give a folder of PEFT's")
    for key, allowed in _ONLY.items():
        check(
            any(config.get(key, allowed[0]) == one for one in allowed),
            f"{folder / CONFIG}: {key} is {config.get(key)!r}, but only {allowed[0]!r} is computed "
            "here; merge the adapters into their model, and give that",
        )
    for key, value in config.items():
        check(
            key in _KNOWN or key in _ONLY or not value,
            f"{folder / CONFIG}: {key} is {value!r}, a key not known here; delete it from the file "
            "if the adapters compute the same without it",
        )
    tensors = _tensors(folder)
    flat = traverse_util.flatten_dict(params, sep=".")
    own = unpadded(model)
    shapes = {path: one.shape for path, one in traverse_util.flatten_dict(own, sep=".").items()}
    known = places(LAYOUTS[model.family], own)
    _check_names(tensors, known, model, folder)
    for path, layers in known.items():
        sums = [_sum(tensors, one, one.own(shapes[path]), config, folder) for one in layers]
        if any(one.any() for one in sums):
            whole = np.stack(sums).reshape(shapes[path])
            more = np.subtract(flat[path].shape, whole.shape)  # of a vocabulary that is padded
            whole = np.pad(whole, [(0, one) for one in more])
            kernel = np.asarray(jax.device_get(flat[path]), np.float32) + whole
            flat[path] = jax.device_put(kernel.astype(flat[path].dtype), flat[path].sharding)
    return traverse_util.unflatten_dict(flat, sep=".")


def _check_names(
    tensors: Collection[str],
    known: Mapping[str, Sequence[Place]],
    model: ModelConfig,
    folder: Path,
) -> None:
    """Refuses a file of which a tensor would be left out."""
    taken = {name for layers in known.values() for one in layers for name in _names(one)}
    unused = sorted(set(tensors) - taken)
    check(
        not unused,
        f"{folder / WEIGHTS}: {', '.join(unused[:2])}: adapts nothing of this {model.family} that "
        "is computed here; merge the adapters into their model, and give that",
    )
    check(bool(tensors), f"{folder / WEIGHTS}: holds no adapters; save them again")


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    path = folder / WEIGHTS
    check(
        path.exists(),
        f"{folder}: holds no {WEIGHTS}; save the adapters with safe_serialization=True",
    )
    try:
        return {name: one.astype(np.float32) for name, one in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is damaged: {error}") from None


def _module(place: Place) -> str:
    return place.name.removesuffix(".weight")


def _names(place: Place) -> list[str]:
    """The two tensors of the file that adapt what lies at `place`."""
    return [f"{BEFORE}{_module(place)}.lora_{one}.weight" for one in "AB"]


def _sum(
    tensors: Mapping[str, np.ndarray],
    place: Place,
    shape: tuple[int, ...],
    config: Mapping[str, Any],
    folder: Path,
) -> np.ndarray:
    """What is added to the kernel that lies at `place`, of our `shape`, (inputs, outputs)."""
    module = _module(place)
    names = _names(place)
    found = [tensors[name] for name in names if name in tensors]
    if len(found) < 2:
        check(not found, f"{folder / WEIGHTS}: {names[0]} and {names[1]} go together")
        return np.zeros(shape, np.float32)
    a, b = found
    rank = a.shape[0]
    alpha = _by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    outputs = place.whole or shape[1]
    check(
        a.shape[1] == shape[0] and b.shape == (outputs, rank),
        f"{folder / WEIGHTS}: {module} is adapted by {a.shape} and {b.shape}, but it takes "
        f"{shape[0]} numbers and gives {outputs}",
    )
    part = b[place.start :][: shape[1]]
    return (scale * (a.astype(np.float64).T @ part.astype(np.float64).T)).astype(np.float32)


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """As PEFT matches its patterns: the end of a module's name."""
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
