"""Reads safetensors files by slices, so that every device gets its own part of a tensor alone.

One file is open at a time, and its tensors are read one after the other into the devices' memory:
a host holds no more of the files than one of them, besides what its devices hold.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open

from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import track

Read = Callable[[Any], np.ndarray]
_ROWS_AT_ONCE = 1024


class Place(NamedTuple):
    """Where an array of ours lies in the files.

    Attributes:
        name: the tensor's.
        transposed: whether it lies the other way there.
        part, parts: the array is this one of so many equal pieces of the tensor's last axis.
        layer: where the array is a stack of layers, which of them; else None.
    """

    name: str
    transposed: bool = False
    part: int = 0
    parts: int = 1
    layer: int | None = None

    def own(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What lies here of an array of this shape: all of it, or a layer."""
        return shape if self.layer is None else shape[1:]

    def shape_in_file(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The whole tensor's shape, where the array's is `shape`."""
        if self.transposed:
            shape = shape[::-1]
        return (*shape[:-1], shape[-1] * self.parts)


# By path, as "layers.attention.q.kernel".
Places = Mapping[str, tuple[Place, ...]]


class Tensor(NamedTuple):
    """What a file's header says of a tensor; `dtype` as safetensors names it."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


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
        self._opened: tuple[Path, Any] | None = None
        self.tensors: dict[str, Tensor] = {}
        for path in files:
            handle = self._handle(path)
            for name in handle.keys():  # noqa: SIM118, it is no dict
                tensor = handle.get_slice(name)
                shape, dtype = tuple(tensor.get_shape()), str(tensor.get_dtype())
                self.tensors[name] = Tensor(path, shape, dtype)

    def reader(self, place: Place, shape: tuple[int, ...], padded: tuple[int, ...]) -> Read:
        """A function from an index, as jax gives it, to that part of an array, float32.

        Args:
            place: where the array lies.
            shape: what it must have there, as it lies here.
            padded: its shape here, which may be larger; zeros are added at the ends.

        Raises:
            UserError: the tensor is missing or has another shape or no float dtype.
        """
        check(
            place.name in self.tensors,
            f"{self.source}: no tensor {place.name!r}; fetch the file again, or make config.json"
            " fit it",
        )
        path, found, dtype = self.tensors[place.name]
        wanted = place.shape_in_file(shape)
        check(
            found == wanted,
            f"{path}: tensor {place.name!r} has shape {found}, config.json makes it {wanted};"
            " use the config.json that came with these weights",
        )
        check(
            dtype in ("F32", "F16", "BF16"),
            f"{path}: tensor {place.name!r} is {dtype}; only F32, F16 and BF16 are read:"
            " save the model again in one of these",
        )

        def read(index: tuple[slice, ...]) -> np.ndarray:
            spans = [one.indices(size)[:2] for one, size in zip(index, padded, strict=True)]
            kept = [(min(a, n), min(b, n)) for (a, b), n in zip(spans, shape, strict=True)]
            if any(a == b for a, b in kept):
                return np.zeros([b - a for a, b in spans], np.float32)
            inside = [slice(a, b) for a, b in kept]
            if place.transposed:
                inside.reverse()
            shift = place.part * wanted[-1] // place.parts
            inside[-1] = slice(inside[-1].start + shift, inside[-1].stop + shift)
            part = self._read(place.name, tuple(inside))
            part = np.asarray(part.T if place.transposed else part, np.float32)
            if kept == spans:
                return part
            missing = [(0, b - a - n) for (a, b), n in zip(spans, part.shape, strict=True)]
            return np.pad(part, missing)

        return read

    def same(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same numbers."""
        shape = self.tensors[first].shape
        if shape != self.tensors[second].shape:
            return False
        return all(
            np.array_equal(self._read(first, (rows,)), self._read(second, (rows,)))
            for start in range(0, shape[0], _ROWS_AT_ONCE)
            for rows in [slice(start, min(start + _ROWS_AT_ONCE, shape[0]))]
        )

    def refuse_others(self, known: set[str], harmless: str) -> None:
        """Names the tensors that are neither known nor match the pattern `harmless`."""
        others = sorted(n for n in self.tensors.keys() - known if not re.fullmatch(harmless, n))
        check(
            not others,
            f"{self.source}: {len(others)} tensors that the model has no place for, such as"
            f" {', '.join(map(repr, others[:3]))}; take weights that fit config.json",
        )

    def _read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        path = self.tensors[name].path
        try:
            return self._handle(path).get_slice(name)[index]
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{path}: tensor {name!r} cannot be read ({error}); fetch the file again"
            ) from None

    def _handle(self, path: Path) -> Any:
        """The opened file; the one that was open before is let go, and its memory with it."""
        if self._opened is None or self._opened[0] != path:
            self._opened = None
            try:
                self._opened = path, safe_open(path, framework="np")
            except FileNotFoundError:
                named = f", although {self.source.name} names it" if path != self.source else ""
                raise UserError(
                    f"{path}: no such file{named}; fetch it, or save the model again with"
                    " transformers, since no other format is read"
                ) from None
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{path}: truncated or damaged ({error}); fetch the file again"
                ) from None
        return self._opened[1]


def check_all(weights: Weights, places: Places, shapes: Params) -> None:
    """Looks at every tensor's name, shape and dtype; raises as `Weights.reader` does."""
    for path, leaf in traverse_util.flatten_dict(shapes, sep=".").items():
        for place in places[path]:
            weights.reader(place, place.own(leaf.shape), place.own(leaf.shape))


def load(
    weights: Weights,
    places: Places,
    shapes: Params,
    wanted: Params,
) -> Params:
    """Reads the arrays that `places` tells the places of, nested as `shapes`.

    Args:
        weights: the folder.
        places: where each array lies.
        shapes: nested dict of `jax.ShapeDtypeStruct`, as the files hold them.
        wanted: the same with the shapes wanted, zeros at the ends; with the dtypes; and with the
            shardings, or None for one device.
    """
    flat = traverse_util.flatten_dict(shapes, sep=".")
    targets = traverse_util.flatten_dict(wanted, sep=".")
    one = SingleDeviceSharding(jax.local_devices()[0])
    # Every tensor is looked at before the first is read: a wrong file fails in the first second.
    readers = {
        (path, place): weights.reader(place, place.own(leaf.shape), place.own(targets[path].shape))
        for path, leaf in flat.items()
        for place in places[path]
    }
    # File after file, since only one is open.
    order = sorted(readers, key=lambda at: (weights.tensors[at[1].name].path, at[0], at[1].name))
    loaded: dict[str, jax.Array] = {}
    for path, place in track(order, "load weights", len(order)):
        shape, dtype, sharding = (getattr(targets[path], a) for a in ("shape", "dtype", "sharding"))
        sharding, read = sharding or one, _once(readers[path, place], dtype)
        if place.layer is None:
            loaded[path] = jax.make_array_from_callback(shape, sharding, read)
            continue
        layer = jax.make_array_from_callback(shape[1:], _of_a_layer(sharding), read)
        whole = loaded.pop(path, None)
        if whole is None:
            whole = jnp.zeros(shape, dtype, device=sharding)
        loaded[path] = _put(sharding)(whole, layer, place.layer)
    return traverse_util.unflatten_dict(loaded, sep=".")


def _of_a_layer(sharding: Sharding) -> Sharding:
    """The sharding of a layer of an array of layers."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[1:]))


@cache
def _put(sharding: Sharding) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """Writes a layer into its place, in the memory that the whole has."""

    def put(whole: jax.Array, layer: jax.Array, place: int) -> jax.Array:
        return jax.lax.dynamic_update_index_in_dim(whole, layer, place, axis=0)

    return jax.jit(put, donate_argnums=0, out_shardings=sharding)


def _once(read: Read, dtype: Any) -> Read:
    """`read` in this dtype; a part that several devices hold is read for the first of them."""
    seen: dict[Any, np.ndarray] = {}

    def reading(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple((part.start, part.stop) for part in index)
        if key not in seen:
            seen[key] = read(index).astype(dtype, copy=False)
        return seen[key]

    return reading
