"""Arrays of embeddings, in memory or on disk: opened, checked and brought to length one.

Those on disk look like an array and are read where they are asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import load_npy, stamp

HOST_ROWS = 8192  # embeddings read at a time
CACHED = 1 << 16  # numbers held in float64 at a time
FLOATS = tuple(np.dtype(t) for t in (np.float16, jnp.bfloat16, np.float32, np.float64))


class _Lazy:
    """What looks like an (N, D) array and is read where it is indexed; `np.asarray` reads all."""

    ndim = 2
    shape: tuple[int, int]
    dtype: np.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: slice | np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("these embeddings become an array only by a copy")
        return self[:].astype(dtype or self.dtype, copy=False)


class StoredEmbeddings(_Lazy):
    """(N, D) embeddings in `.npy` files, one after the other.

    What is read is an array of its own; a file is open only while it is read, so that what has
    been read does not stay in memory.
    """

    def __init__(self, files: Sequence[tuple[Path, int]], width: int, dtype: np.dtype) -> None:
        """Takes files and the embeddings each of them holds, all of `width` and of `dtype`.

        Files of bfloat16 hold it as uint16, which NumPy can write.
        """
        self._paths = [path for path, _ in files]
        self._stamps = [stamp(path) for path in self._paths]
        self._starts = np.cumsum([0, *(count for _, count in files)])
        self.shape = (int(self._starts[-1]), width)
        self.dtype = np.dtype(dtype)

    def __getitem__(self, where: slice | np.ndarray) -> np.ndarray:
        if isinstance(where, slice):
            start, stop, step = where.indices(len(self))
            if step != 1:
                return self[np.arange(start, stop, step)]
            return self._run(start, max(start, stop))
        wanted = np.asarray(where)
        if wanted.dtype == bool:
            wanted = np.flatnonzero(wanted)
        out = np.empty((len(wanted), self.shape[1]), self.dtype)
        file = np.searchsorted(self._starts, wanted, side="right") - 1
        # One look into each file, however its embeddings are scattered over `wanted`.
        by_file = np.argsort(file, kind="stable")
        bounds = np.searchsorted(file[by_file], np.arange(len(self._paths) + 1))
        for number in np.unique(file):
            here = by_file[bounds[number] : bounds[number + 1]]
            out[here] = self._file(number)[wanted[here] - self._starts[number]]
        return out

    def _run(self, start: int, stop: int) -> np.ndarray:
        parts = [np.empty((0, self.shape[1]), self.dtype)]
        for number in range(len(self._paths)):
            begin, end = int(self._starts[number]), int(self._starts[number + 1])
            if max(begin, start) < min(end, stop):
                parts.append(self._file(number)[max(start - begin, 0) : stop - begin])
        return np.concatenate(parts)

    def _file(self, number: int) -> np.ndarray:
        path, rows = self._paths[number], int(self._starts[number + 1] - self._starts[number])
        content = _mapped(path)
        same_dtype = content.dtype in (self.dtype, file_dtype(self.dtype))
        fits = content.shape == (rows, self.shape[1]) and same_dtype
        fits = fits and stamp(path) == self._stamps[number]
        check(fits, f"{path}: has changed since it was opened; start again")
        return content.view(self.dtype)


def file_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype in which rows of `dtype` lie in a file."""
    return np.dtype(np.uint16) if dtype == jnp.bfloat16 else dtype


class SelectedEmbeddings(_Lazy):
    """Some of other embeddings, themselves left where they are; `index` is (n,) int64."""

    def __init__(self, embeddings: "Embeddings", index: np.ndarray) -> None:
        self._embeddings, self._index = embeddings, index
        self.shape, self.dtype = (len(index), embeddings.shape[1]), embeddings.dtype

    def __getitem__(self, where: slice | np.ndarray) -> np.ndarray:
        return np.asarray(self._embeddings[self._index[where]])


Embeddings = np.ndarray | StoredEmbeddings | SelectedEmbeddings


def unit_embeddings(x: Embeddings, what: str = "array") -> np.ndarray:
    """Divides every embedding by its length.

    The length is taken in float64 and the quotient rounded once, so an embedding and the same one
    times a power of two give the same bits, and other multiples do but for a rounding in some 10^8.

    Args:
        x: (N, D) float16, bfloat16, float32 or float64; read in blocks.
        what: the array's name in error messages.

    Returns:
        (N, D) float32; an all-zero embedding stays zero.

    Raises:
        UserError: wrong rank or dtype, or a NaN or an infinity, named by row.
    """
    x = checked(x, what)
    out = np.empty(x.shape, np.float32)
    for start in range(0, len(x), HOST_ROWS):
        block = x[start : start + HOST_ROWS]
        out[start : start + len(block)] = unit_block(block, what, range(start, len(x)))
    return out


def check_finite(x: Embeddings, what: str) -> None:
    """Goes over all embeddings once.

    Raises:
        UserError: as `unit_embeddings` does.
    """
    x = checked(x, what)
    for start in range(0, len(x), HOST_ROWS):
        unit_block(x[start : start + HOST_ROWS], what, range(start, len(x)))


def check_pair(train: Embeddings, test: Embeddings) -> tuple[Embeddings, Embeddings]:
    """Refuses wrong ranks, dtypes and unequal widths; copies nothing."""
    train, test = checked(train, "train"), checked(test, "test")
    check(
        train.shape[1] == test.shape[1],
        f"train has {train.shape[1]} columns and test has {test.shape[1]}: "
        "both must come from the same encoder",
    )
    return train, test


def refuse_masked(x: np.ndarray, what: str) -> None:
    """Refuses an array of which NumPy hides values, which would else be used."""
    check(not np.ma.is_masked(x), f"{what}: some are masked; fill them in")


def checked(x: Embeddings, what: str) -> Embeddings:
    """`x` as an array, not copied; refuses what is not (rows, columns) of floats."""
    if not isinstance(x, _Lazy):
        x = np.asanyarray(x)
        refuse_masked(x, what)
    check(x.ndim == 2 and x.shape[1] > 0, f"{what}: shape {x.shape}; it must be (rows, columns)")
    check(
        x.dtype in FLOATS,
        f"{what}: dtype {x.dtype}; it must be float16, bfloat16, float32 or float64",
    )
    return x


def unit_block(
    block: np.ndarray,
    what: str,
    numbers: Sequence[int] | np.ndarray,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`unit_embeddings` of a block; `numbers` says which of `what` each of it is.

    `out`, (n, D) float32, takes the result if it is given.
    """
    block = np.asarray(block)
    if out is None:
        out = np.empty(block.shape, np.float32)
    # A few at a time, so that what lies between them and their unit vectors stays in the cache.
    step = max(1, CACHED // block.shape[1])
    for start in range(0, len(block), step):
        here = slice(start, start + step)
        wide = _in_float64(block[here])
        squares = np.square(wide).sum(axis=1)
        finite = np.isfinite(squares)
        if not finite.all():
            row = numbers[start + int(np.argmin(finite))]
            raise UserError(f"{what}: row {row} holds a NaN or an infinity; embed that row again")
        length = np.sqrt(squares, out=squares)
        length[length == 0] = 1
        wide /= length[:, None]
        unit = out[here]
        unit[...] = wide
        unit += 0.0  # no negative zeros
    return out


def _in_float64(block: np.ndarray) -> np.ndarray:
    """A copy; of float64 each row times a power of two, which dividing by its length undoes."""
    if block.dtype == jnp.bfloat16:
        # The upper half of a float32; NumPy's own conversion takes ten times as long.
        block = (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    wide = block.astype(np.float64, order="C")
    if block.dtype == np.float64:
        # Exact, and no square overflows or vanishes; squares of the shorter floats never do.
        largest = np.abs(wide).max(axis=1, initial=0.0)
        wide = np.ldexp(wide, -np.frexp(largest)[1][:, None])
    return wide


def open_embeddings(path: str | Path) -> StoredEmbeddings:
    """Embeddings of one `.npy` file, (N, D), left on disk.

    Raises:
        UserError: if it is missing, is no `.npy` file, or does not hold a table.
    """
    path = Path(path)
    content = _mapped(path)
    check(
        isinstance(content, np.ndarray),
        f"{path}: is an archive of arrays (.npz); write the one that is meant with numpy.save",
    )
    check(
        content.ndim == 2,
        f"{path}: shape {content.shape}; embeddings must be (rows, columns), one row an instance",
    )
    return StoredEmbeddings([(path, len(content))], content.shape[1], content.dtype)


def _mapped(path: Path) -> np.ndarray:
    try:
        values = load_npy(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (EOFError, ValueError):
        raise UserError(
            f"{path}: is no .npy file of numbers, or damaged; write it with numpy.save"
        ) from None
    # What numpy.save writes of bfloat16 has no name in its header.
    if isinstance(values, np.ndarray) and values.dtype == np.dtype("V2"):
        return values.view(jnp.bfloat16)
    return values
