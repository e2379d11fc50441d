"""Reads safetensors files by slices, so that every device gets its own part of a tensor alone."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from zsg_jax.errors import UserError, check
from zsg_jax.progress import track

Params = dict[str, Any]
Read = Callable[[Any], np.ndarray]


def read_json(path: Path) -> Any:
    """The content of a JSON file; `UserError` when it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        where = "no such file" if path.parent.is_dir() else f"no folder {path.parent}"
        raise UserError(
            f"{path}: {where}; give a folder in the Hugging Face layout (config.json, safetensors)"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); fetch the file again") from None


class Weights:
    """The tensors of a folder, found by name.

    Raises:
        UserError: a file or the index is missing, truncated or damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.source, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        files = [self.source]
        if not self.source.exists() and index.exists():
            self.source = index
            content = read_json(index)
            table = content.get("weight_map") if isinstance(content, dict) else None
            names = set(table.values()) if isinstance(table, dict) else set()
            check(
                bool(names) and all(isinstance(n, str) and Path(n).name == n for n in names),
                f"{index}: no 'weight_map' from tensors to files beside it; fetch the file again",
            )
            files = [folder / name for name in sorted(names)]
        self.where: dict[str, tuple[Path, Any]] = {}
        for path in files:
            try:
                handle = safe_open(path, framework="np")
            except FileNotFoundError:
                named = f", although {index.name} names it" if self.source == index else ""
                raise UserError(
                    f"{path}: no such file{named}; fetch it, or save the model again with"
                    " transformers, since no other format is read"
                ) from None
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{path}: truncated or damaged ({error}); fetch the file again"
                ) from None
            self.where |= dict.fromkeys(handle.keys(), (path, handle))

    def reader(self, name: str, shape: tuple[int, ...], transposed: bool) -> Read:
        """A function from an index, as jax gives it, to that part of the tensor, float32.

        `shape` and the index are this project's; a transposed tensor lies the other way in its
        file. Raises `UserError` if it is missing or has another shape or no float dtype.
        """
        check(
            name in self.where,
            f"{self.source}: no tensor {name!r}; fetch the file again, or make config.json fit it",
        )
        path, handle = self.where[name]
        tensor = handle.get_slice(name)
        wanted = shape[::-1] if transposed else shape
        found = tuple(tensor.get_shape())
        check(
            found == wanted,
            f"{path}: tensor {name!r} has shape {found}, config.json makes it {wanted};"
            " use the config.json that came with these weights",
        )
        check(
            tensor.get_dtype() in ("F32", "F16", "BF16"),
            f"{path}: tensor {name!r} is {tensor.get_dtype()}; only F32, F16 and BF16 are read:"
            " save the model again in one of these",
        )

        def read(index: tuple[slice, ...]) -> np.ndarray:
            try:
                part = tensor[index[::-1] if transposed else index]
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{path}: tensor {name!r} cannot be read ({error}); fetch the file again"
                ) from None
            return np.asarray(part.T if transposed else part, np.float32)

        return read

    def refuse_others(self, known: set[str], harmless: str) -> None:
        """Names the tensors that are neither known nor match the pattern `harmless`."""
        others = sorted(n for n in self.where.keys() - known if not re.fullmatch(harmless, n))
        check(
            not others,
            f"{self.source}: {len(others)} tensors that the model has no place for, such as"
            f" {', '.join(map(repr, others[:3]))}; take weights that fit config.json",
        )


def load(weights: Weights, names: Mapping[str, str], shapes: Params, shardings: Any) -> Params:
    """Reads the tensors that `names` gives for the paths of `shapes`, float32, same nested dict.

    Args:
        weights: the opened files.
        names: from a path, as "layers.0.attention.q.kernel", to a tensor's name. Kernels are
            (inputs, outputs) here and lie the other way in the files.
        shapes: nested dict of `jax.ShapeDtypeStruct`.
        shardings: the same dict with a `jax.sharding.Sharding` at each, or None for one device.
    """
    flat = traverse_util.flatten_dict(shapes, sep=".")
    placed = traverse_util.flatten_dict(shardings, sep=".") if shardings else None
    # Every tensor is looked at before the first is read: a wrong file fails in the first second.
    readers = {
        path: weights.reader(names[path], leaf.shape, path.endswith(".kernel"))
        for path, leaf in flat.items()
    }
    loaded = {}
    for path, read in track(readers.items(), "load weights", len(readers)):
        shape = flat[path].shape
        if placed is None:
            loaded[path] = jnp.array(read((slice(None),) * len(shape)))
        else:
            once = _once(read)
            loaded[path] = jax.make_array_from_callback(shape, placed[path], once)
    return traverse_util.unflatten_dict(loaded, sep=".")


def _once(read: Read) -> Read:
    """`read`, but a part that several devices hold alike is read for the first of them alone."""
    seen: dict[Any, np.ndarray] = {}

    def reading(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple((part.start, part.stop) for part in index)
        if key not in seen:
            seen[key] = read(index)
        return seen[key]

    return reading
