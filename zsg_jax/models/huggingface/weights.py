"""Reads safetensors files by slices, so that every device gets its own part of a tensor alone.

One file is open at a time, and its tensors are read one after the other into the devices' memory:
a host holds no more of the files than one of them, besides what its devices hold.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open

from zsg_jax.models.huggingface import mxfp4
from zsg_jax.models.huggingface.layouts import Layout, Place, places
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import track

_ROWS_AT_ONCE = 1024
# Unpickling runs what a file says, so it is left to a line that its owner runs.
_CONVERT = (
    'has .bin files and no safetensors, which alone are read; write them by: python -c "'
    "import glob, torch; from safetensors.torch import save_file; save_file({{k: v.clone() for f in"
    " glob.glob('{folder}/pytorch_model*.bin') for k, v in torch.load(f, weights_only=True).items()"
    "}}, '{folder}/model.safetensors', metadata={{'format': 'pt'}})\""
)


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
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); fetch the file again") from None


class Weights:
    """The tensors of a folder, and where each array of a model lies in them.

    Attributes:
        tensors: by name.
        places: by the path of each array.
    """

    def __init__(
        self,
        folder: str | Path,
        layout: Layout | Callable[[Mapping[str, Tensor]], Layout],
        shapes: Params,
    ) -> None:
        """Opens the files, and refuses tensors that have no place.

        Args:
            layout: how they are named, or what tells it by the tensors that are there.
            shapes: the parameters' nested dict of `jax.ShapeDtypeStruct`, as the files hold them.

        Raises:
            UserError: a file is missing, truncated or damaged, or a tensor is one too many.
        """
        self._opened: tuple[Path, Any] | None = None
        self.tensors: dict[str, Tensor] = {}
        for path in self._files(Path(folder)):
            handle = self._handle(path)
            for name in handle.keys():  # noqa: SIM118, it is no dict
                tensor = handle.get_slice(name)
                shape, dtype = tuple(tensor.get_shape()), str(tensor.get_dtype())
                other = self.tensors.get(name)
                check(
                    other is None,
                    f"{path}: tensor {name!r} stands in {other and other.path.name} too, and which"
                    " one counts is not told; fetch the files again",
                )
                self.tensors[name] = Tensor(path, shape, dtype)
        self._join_packed()
        if not isinstance(layout, Layout):
            layout = layout(self.tensors)
        self._shapes = traverse_util.flatten_dict(shapes, sep=".")
        self.places = places(layout, shapes, self.tensors)
        known = {place.name for each in self.places.values() for place in each}
        harmless, head = layout.harmless, "lm_head.weight"
        tables = [name for name in self.tensors if layout.table and name.endswith(layout.table)]
        # Some files keep a copy of the tied table, which is fine for as long as it is a copy.
        if head in self.tensors.keys() - known and tables and self._same(head, tables[0]):
            harmless += r"|lm_head\.weight"
        others = sorted(n for n in self.tensors.keys() - known if not re.fullmatch(harmless, n))
        check(
            not others,
            f"{self._source}: {len(others)} tensors that the model has no place for, such as"
            f" {', '.join(map(repr, others[:3]))}; take weights that fit config.json",
        )

    def _join_packed(self) -> None:
        """Puts tensors under the names of those that they are of, where they are packed."""
        self._files_of = {name: tensor.path for name, tensor in self.tensors.items()}
        for blocks in [one for one in self.tensors if one.endswith(mxfp4.BLOCKS)]:
            name = blocks.removesuffix(mxfp4.BLOCKS)
            parts = self.tensors.pop(blocks), self.tensors.pop(name + mxfp4.SCALES, None)
            where = f"{parts[0].path}: tensor {name!r}"
            shape = mxfp4.shape(where, *parts)
            self.tensors[name] = Tensor(parts[0].path, shape, mxfp4.DTYPE)

    def _files(self, folder: Path) -> list[Path]:
        self._source, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        if self._source.exists() or not index.exists():
            pickled = [] if self._source.exists() else sorted(folder.glob("pytorch_model*.bin"))
            check(not pickled, f"{folder}: {_CONVERT.format(folder=folder)}")
            return [self._source]
        self._source = index
        content = read_json(index)
        table = content.get("weight_map") if isinstance(content, dict) else None
        names = set(table.values()) if isinstance(table, dict) else set()
        check(
            bool(names) and all(isinstance(n, str) and Path(n).name == n for n in names),
            f"{index}: no 'weight_map' from tensors to files beside it; fetch the file again",
        )
        return [folder / name for name in sorted(names)]

    def check(self) -> None:
        """Looks at every tensor's name, shape and dtype, and reads none.

        Raises:
            UserError: a tensor is missing or has another shape or no float dtype.
        """
        for path, leaf in self._shapes.items():
            for place in self.places[path]:
                check(
                    place.name in self.tensors,
                    f"{self._source}: no tensor {place.name!r}; fetch the file again, or make"
                    " config.json fit it",
                )
                file, found, dtype = self.tensors[place.name]
                wanted = place.shape_in_file(place.own(leaf.shape))
                check(
                    found == wanted,
                    f"{file}: tensor {place.name!r} has shape {found}, config.json makes it"
                    f" {wanted}; use the config.json that came with these weights",
                )
                check(
                    dtype in ("F32", "F16", "BF16", mxfp4.DTYPE),
                    f"{file}: tensor {place.name!r} is {dtype}; only F32, F16 and BF16 are read:"
                    " save the model again in one of these",
                )

    def load(self, wanted: Params) -> Params:
        """Reads the arrays, every device its own part.

        Args:
            wanted: the nested dict of `jax.ShapeDtypeStruct` that is to come: with shapes that may
                be larger, zeros at the ends; with the dtypes; and with the shardings, or None for
                one device.

        Raises:
            UserError: as `check`; every tensor is looked at before the first is read.
        """
        self.check()
        targets = traverse_util.flatten_dict(wanted, sep=".")
        one = SingleDeviceSharding(jax.local_devices()[0])
        order = [(path, place) for path, each in self.places.items() for place in each]
        # File after file, since only one is open.
        order.sort(key=lambda at: (self.tensors[at[1].name].path, at[0], at[1].name))
        loaded: dict[str, jax.Array] = {}
        for path, place in track(order, "load weights", len(order)):
            target = targets[path]
            shape, sharding = target.shape, target.sharding or one
            read = self._reader(place, self._shapes[path].shape, target)
            if not place.at:
                loaded[path] = jax.make_array_from_callback(shape, sharding, read)
                continue
            one_of = _of_one(sharding, len(place.at))
            part = jax.make_array_from_callback(place.own(shape), one_of, read)
            whole = loaded.pop(path, None)
            if whole is None:
                whole = jnp.zeros(shape, target.dtype, device=sharding)
            loaded[path] = _put(sharding)(whole, part, place.at)
        return traverse_util.unflatten_dict(loaded, sep=".")

    def _reader(
        self, place: Place, there: tuple[int, ...], target: jax.ShapeDtypeStruct
    ) -> Callable[[Any], np.ndarray]:
        """A function from an index, as jax gives it, to that part of what lies at a place."""
        # A part that several devices hold is read for the first of them.
        part = cache(partial(self._part, place, place.own(there), target.dtype))
        sizes = place.own(target.shape)

        def read(index: tuple[slice, ...]) -> np.ndarray:
            return part(*(one.indices(size)[:2] for one, size in zip(index, sizes, strict=True)))

        return read

    def _part(
        self, place: Place, shape: tuple[int, ...], dtype: Any, *spans: tuple[int, int]
    ) -> np.ndarray:
        """From where to where along each axis; zeros beyond the `shape` that lies there."""
        inside = [slice(min(a, n), min(b, n)) for (a, b), n in zip(spans, shape, strict=True)]
        if any(one.start == one.stop for one in inside):
            return np.zeros([b - a for a, b in spans], dtype)
        first, last = inside[-1].start, inside[-1].stop
        inside[-1] = slice(
            place.start + place.step * first, place.start + place.step * (last - 1) + 1
        )
        if place.transposed:
            inside.reverse()
        found = self._read(place.name, tuple(inside))[..., :: place.step]
        # By way of float32, so that each number is rounded once.
        found = np.asarray(found.T if place.transposed else found, np.float32)
        missing = [(0, b - a - n) for (a, b), n in zip(spans, found.shape, strict=True)]
        return np.pad(found, missing).astype(dtype, copy=False)

    def _same(self, first: str, second: str) -> bool:
        """Whether two tensors hold the same numbers."""
        shape = self.tensors[first].shape
        starts = range(0, shape[0], _ROWS_AT_ONCE)
        parts = ((slice(start, min(start + _ROWS_AT_ONCE, shape[0])),) for start in starts)
        return shape == self.tensors[second].shape and all(
            np.array_equal(self._read(first, part), self._read(second, part)) for part in parts
        )

    def _read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        if self.tensors[name].dtype == mxfp4.DTYPE:
            return mxfp4.read(self._slice, name, index)
        return self._slice(name, index)

    def _slice(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        path = self._files_of[name]
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
                named = f", although {self._source.name} names it" if path != self._source else ""
                raise UserError(
                    f"{path}: no such file{named}; fetch it, or save the model again with"
                    " transformers, since no other format is read"
                ) from None
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{path}: truncated or damaged ({error}); fetch the file again"
                ) from None
        return self._opened[1]


def _of_one(sharding: Sharding, axes: int) -> Sharding:
    """The sharding of what an array holds at an index of its first axes."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[axes:]))


@cache
def _put(sharding: Sharding) -> Callable[[jax.Array, jax.Array, tuple[int, ...]], jax.Array]:
    """Writes a layer, or an expert, into its place, in the memory that the whole has."""

    def put(whole: jax.Array, part: jax.Array, at: tuple[int, ...]) -> jax.Array:
        return whole.at[at].set(part)

    return jax.jit(put, donate_argnums=0, out_shardings=sharding)
