"""Rows as they come, checked and brought to length one: what every cosine is made of."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.similarity.stored import Rows, SelectedRows, StoredRows

HOST_ROWS = 8192  # rows read at a time
CACHED = 1 << 16  # numbers held in float64 at a time
FLOATS = tuple(np.dtype(t) for t in (np.float16, jnp.bfloat16, np.float32, np.float64))


def unit_rows(x: Rows, what: str = "array") -> np.ndarray:
    """Divides every row by its length.

    The length is taken in float64 and the quotient rounded once, so a row and the same row times a
    power of two give the same bits, and other multiples do but for a rounding in some 10^8.

    Args:
        x: (N, D) float16, bfloat16, float32 or float64; rows on disk are read in blocks.
        what: the array's name in error messages.

    Returns:
        (N, D) float32; an all-zero row stays zero.

    Raises:
        UserError: wrong rank or dtype, or a NaN or an infinity, named by row.
    """
    x = checked(x, what)
    out = np.empty(x.shape, np.float32)
    for start in range(0, len(x), HOST_ROWS):
        block = x[start : start + HOST_ROWS]
        out[start : start + len(block)] = unit_block(block, what, range(start, len(x)))
    return out


def check_finite(x: Rows, what: str) -> None:
    """Goes over all rows once.

    Raises:
        UserError: as `unit_rows` does.
    """
    x = checked(x, what)
    for start in range(0, len(x), HOST_ROWS):
        unit_block(x[start : start + HOST_ROWS], what, range(start, len(x)))


def check_pair(train: Rows, test: Rows) -> tuple[Rows, Rows]:
    """Refuses wrong ranks, dtypes and unequal widths; copies nothing."""
    train, test = checked(train, "train"), checked(test, "test")
    check(
        train.shape[1] == test.shape[1],
        f"train has {train.shape[1]} columns and test has {test.shape[1]}: "
        "both must come from the same encoder",
    )
    return train, test


def checked(x: Rows, what: str) -> Rows:
    """`x` as an array, not copied; refuses what is not (rows, columns) of floats."""
    if not isinstance(x, StoredRows | SelectedRows):
        x = np.asanyarray(x)
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
    """`unit_rows` of a block; `numbers` says which row of `what` each of its rows is.

    `out`, (n, D) float32, takes the result if it is given.
    """
    block = np.asarray(block)
    if out is None:
        out = np.empty(block.shape, np.float32)
    # A few rows at a time, so that what lies between them and their unit rows stays in the cache.
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
        wide += 0.0  # no negative zeros
        out[here] = wide
    return out


def _in_float64(block: np.ndarray) -> np.ndarray:
    """A copy by rows; of float64 each row times a power of two, which a unit row does not feel."""
    if block.dtype == jnp.bfloat16:
        # The upper half of a float32; NumPy's own conversion takes ten times as long.
        block = (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    wide = block.astype(np.float64, order="C")
    if block.dtype == np.float64:
        # Exact, and no square overflows or vanishes; squares of the shorter floats never do.
        largest = np.abs(wide).max(axis=1, initial=0.0)
        wide = np.ldexp(wide, -np.frexp(largest)[1][:, None])
    return wide
