"""Whole lists: all training rows in the order of a test row, by one sort instead of many merges."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from zsg_jax.similarity.search.host_lists import decoded, encoded

SORTED_AT_ONCE = 1 << 18  # numbers of 64 bits: what fits a cache


def sorted_lists(matrix_NxT: np.ndarray, farthest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Each column's values, largest (or smallest) first, and their rows, equals by lower row.

    A value and its row make one whole number, so that NumPy's fastest sort keeps the order of ties.

    Args:
        matrix_NxT: float32 without NaN.
        farthest: smallest first.

    Returns:
        (T, N) float32 and (T, N) int32.
    """
    rows, tests = matrix_NxT.shape
    values, order = np.empty((tests, rows), np.float32), np.empty((tests, rows), np.int32)
    step = max(1, SORTED_AT_ONCE // max(rows, 1))

    def sort(start: int) -> None:
        here = slice(start, start + step)
        keys = encoded(matrix_NxT[:, here].T.copy(), np.arange(rows), farthest)
        keys.sort(axis=1)
        values[here], order[here] = decoded(keys, farthest)

    # NumPy leaves the interpreter to others while it sorts.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(sort, range(0, tests, step)))
    return values, order
