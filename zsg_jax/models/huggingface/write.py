"""Writes a folder in the Hugging Face layout: weights in files of a limited size, config.json."""

import json
import math
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError
from safetensors.numpy import save_file

from zsg_jax.models.dtypes import DTYPES, SAME
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.huggingface import mxfp4, open_weights, unpadded
from zsg_jax.models.huggingface.configs import config_json, config_path
from zsg_jax.models.huggingface.layouts import LAYOUTS, Place, places
from zsg_jax.models.huggingface.weights import read_json
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import write_json
from zsg_jax.runtime.progress import track

# What is packed is written unpacked, in what holds each of its numbers.
_SAFETENSORS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", mxfp4.DTYPE: "bfloat16"}


class _Piece(NamedTuple):
    """An array of ours, and where it goes; its shape in the files is without padding."""

    path: str
    place: Place
    shape: tuple[int, ...]


def write(
    folder: Path,
    model: ModelConfig,
    params: Params,
    *,
    source: str | Path | None,
    dtype: str = SAME,
    file_bytes: int = 5 * 10**9,
    more: dict[str, Any] | None = None,
) -> None:
    """Writes `params` and their config.json to `folder`, which exists.

    Args:
        model: the shape of `params`; rows of `vocab_padding` are left out.
        params: as `apply` takes them.
        source: the folder that training started from: tensors are named as there, and its
            config.json is kept, all but the dtype. None: neither was there.
        dtype: one of `DTYPES`, or `SAME`.
        file_bytes: bytes at most of a file, but for a tensor that alone is larger.
        more: keys for a config.json that comes from no folder.

    Raises:
        UserError: a number does not fit the dtype.
    """
    shapes, dtypes = unpadded(model), {}
    if source is None:
        found = places(LAYOUTS[model.family], shapes)
    else:
        opened = open_weights(source, model)
        found = opened.places
        # A folder may hold buffers besides, of dtypes that no parameter has.
        named = {place.name for each in found.values() for place in each}
        dtypes = {n: _SAFETENSORS[one.dtype] for n, one in opened.tensors.items() if n in named}
    tensors: dict[str, list[_Piece]] = {}
    flat = traverse_util.flatten_dict(shapes, sep=".")
    every = [
        _Piece(path, at, at.own(flat[path].shape)) for path, each in found.items() for at in each
    ]
    for piece in sorted(every, key=lambda piece: _by_number(piece.place.name)):
        tensors.setdefault(piece.place.name, []).append(piece)
    arrays = traverse_util.flatten_dict(params, sep=".")
    own = next(iter(arrays.values())).dtype.name
    wanted = {name: DTYPES[dtypes.get(name, own) if dtype == SAME else dtype] for name in tensors}
    sizes = {
        name: math.prod(pieces[0].place.shape_in_file(pieces[0].shape)) * wanted[name].itemsize
        for name, pieces in tensors.items()
    }
    _write_files(
        folder, sizes, file_bytes, lambda name: _tensor(name, tensors[name], arrays, wanted[name])
    )
    content = _config(model, source, dtype, own, more or {})
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    as_readable_as(folder / "config.json", folder.glob("*.safetensors"))


def _write_files(
    folder: Path, sizes: dict[str, int], most: int, tensor: Callable[[str], np.ndarray]
) -> None:
    """Writes tensors, by name, to files of `most` bytes, and the index of more than one file."""
    files: list[list[str]] = []
    held = most
    for name, size in sizes.items():
        if held + size > most or not files:
            files.append([])
            held = 0
        files[-1].append(name)
        held += size
    weight_map: dict[str, str] = {}
    for number, names in enumerate(track(files, "write weights", len(files)), 1):
        part = "" if len(files) == 1 else f"-{number:05d}-of-{len(files):05d}"
        path = folder / f"model{part}.safetensors"
        try:
            # transformers refuses files that do not say so.
            save_file({name: tensor(name) for name in names}, path, metadata={"format": "pt"})
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be written: {error}") from None
        weight_map |= dict.fromkeys(names, path.name)
    if len(files) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def as_readable_as(one: Path, others: Iterable[Path]) -> None:
    """Gives files the mode of another; safetensors makes them its owner's alone."""
    for path in others:
        path.chmod(stat.S_IMODE(one.stat().st_mode))


def _config(
    model: ModelConfig, source: str | Path | None, dtype: str, own: str, more: dict[str, Any]
) -> dict[str, Any]:
    if source is None:
        name = own if dtype == SAME else dtype
        return config_json(model) | {"torch_dtype": name} | more
    content: dict[str, Any] = read_json(config_path(source))
    content.pop("quantization_config", None)
    if dtype != SAME:
        content["dtype" if "dtype" in content else "torch_dtype"] = dtype
    return content


def _by_number(path: str) -> list[Any]:
    """Sorts "layers.10" after "layers.2"."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def _tensor(name: str, pieces: list[_Piece], arrays: dict[str, Any], dtype: np.dtype) -> np.ndarray:
    parts = []
    for path, place, shape in sorted(pieces, key=lambda piece: piece.place.start):
        array = np.asarray(arrays[path])
        array = array[place.at]
        array = array[tuple(slice(size) for size in shape)]
        parts.append(array)
    if pieces[0].place.step > 1:
        whole = np.stack(parts, axis=-1).reshape(*parts[0].shape[:-1], -1)
    else:
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    whole = whole.T if pieces[0].place.transposed else whole
    return in_dtype(name, whole, dtype)


def in_dtype(name: str, whole: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A tensor as it lies in a file.

    Raises:
        UserError: it holds numbers that are too large for the dtype.
    """
    with np.errstate(over="ignore"):  # told below, by name
        tensor = np.ascontiguousarray(whole, dtype)
    check(
        dtype == np.float32 or bool((np.isfinite(tensor) == np.isfinite(whole)).all()),
        f"tensor {name!r} holds numbers too large for {dtype}; pass --dtype float32",
    )
    return tensor
