"""Compares the rows of an order with the test rows, in passes that hold a few blocks of rows."""

from typing import Any, NamedTuple

import numpy as np

from zsg_jax.runtime.errors import check
from zsg_jax.similarity.search.cosine import cosine_matrix, row_statistics, top_k
from zsg_jax.similarity.search.options import Search

BLOCKS = 4  # of every device, taken from disk at a time
ENTRIES = 1 << 24  # cosines on the host at a time, where a matrix of them is looked through


class Measured(NamedTuple):
    """Exact cosines of an order of n rows with T test rows.

    Attributes:
        mean: (n,) float32, by position: mean over the test rows.
        best: (n,) float32, by position: with the nearest test row.
        cosines: (T, k) float32: of each test row with its nearest rows, nearest first.
        positions: (T, k) int64 from 0: where those rows stand; ties go to the lower row.
    """

    mean: np.ndarray
    best: np.ndarray
    cosines: np.ndarray
    positions: np.ndarray


def measure(
    order: np.ndarray,
    train_rows: Any,
    test_rows: np.ndarray,
    k: int,
    *,
    search: Search = Search(),
) -> Measured:
    """One pass over the rows of an order, in the order in which they lie on disk.

    Args:
        order: (n,) int64 rows of `train_rows`, n at least 1.
        train_rows: (N, D) floats, an array or what can be sliced like one.
        test_rows: (T, D) floats, T at least 1.
        k: how many nearest rows to list; fewer where n is below it.
        search: devices, block size and progress; they change no cosine.

    Raises:
        UserError: a NaN or an infinity in a row, widths that differ.
    """
    places = np.argsort(order)
    n = len(order)
    mean, best = np.empty(n, np.float32), np.empty(n, np.float32)
    cosines = np.empty((len(test_rows), 0), np.float32)
    positions = np.empty((len(test_rows), 0), np.int64)
    size = search.block_size * BLOCKS * (1 if search.mesh is None else search.mesh.size)
    for start in range(0, n, size):
        here = places[start : start + size]
        block = fetch(train_rows, order[here])
        stats = row_statistics(block, test_rows, search=search.quiet)
        mean[here], best[here] = stats.mean, stats.maximum
        found, at = top_k(block, test_rows, min(k, len(here)), search=search.quiet)
        # What was listed before has lower rows: a stable sort keeps it first among equals.
        cosines = np.concatenate([cosines, found], axis=1)
        positions = np.concatenate([positions, here[at]], axis=1)
        kept = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        cosines = np.take_along_axis(cosines, kept, axis=1)
        positions = np.take_along_axis(positions, kept, axis=1)
        search.on_progress(len(here), n)
    return Measured(mean, best, cosines, positions)


def nearest_test_rows(
    rows: np.ndarray,
    train_rows: Any,
    test_rows: np.ndarray,
    *,
    search: Search = Search(),
) -> tuple[np.ndarray, np.ndarray]:
    """Which test row each of some training rows is nearest to, ties to the lower one.

    Args:
        rows: (s,) int64 rows of `train_rows`, in any order.
        train_rows, test_rows, search: as `measure` takes them.

    Returns:
        Test rows (s,) int64 and the cosines with them (s,) float32.
    """
    nearest, cosine = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    places = np.argsort(rows)
    size = max(1, min(search.block_size, ENTRIES // len(test_rows)))
    for start in range(0, len(rows), size):
        here = places[start : start + size]
        block = fetch(train_rows, rows[here])
        matrix = cosine_matrix(block, test_rows, search=search.quiet)
        nearest[here], cosine[here] = matrix.argmax(axis=1), matrix.max(axis=1)
    return nearest, cosine


def fetch(array: Any, rows: np.ndarray, what: str = "train") -> np.ndarray:
    """Rows of `array`, which may lie on disk, by ascending number; refuses what is not finite."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        # Neighbours are read in one go.
        block = np.asarray(array[int(rows[0]) : int(rows[-1]) + 1])
    else:
        block = np.asarray(array[rows])
    finite = np.isfinite(block).all(axis=1)
    bad = int(rows[np.argmin(finite)]) if len(rows) else 0
    check(bool(finite.all()), f"{what}: row {bad} holds a NaN or an infinity; embed that row again")
    return block
