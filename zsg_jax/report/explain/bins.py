"""Sums up values along an order by stretches of it, called bins; plain NumPy, in float64.

A bin is a run of positions. `edges` (B + 1,) int64 ascend from 0 to n: bin b holds the positions
edges[b] to edges[b + 1] - 1, one at least.
"""

from typing import NamedTuple

import numpy as np


class Tally(NamedTuple):
    """One entry for each group, whose positions are those of its code; all float64 but `rows`.

    Attributes:
        rows: (C,) int64, how many positions it has.
        mean: (C,) mean of the values there; 0 for a group without positions.
        median: (C,) median position, from 1; 0 for a group without positions.
    """

    rows: np.ndarray
    mean: np.ndarray
    median: np.ndarray


def bin_edges(n: int, limit: int) -> np.ndarray:
    """Edges of at most `limit` bins of n positions, alike in size but for one position."""
    return np.linspace(0, n, min(n, limit) + 1).round().astype(np.int64)


def bin_means(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(B,) mean of `values` (n,) in each bin."""
    return np.add.reduceat(values.astype(np.float64), edges[:-1]) / np.diff(edges)


def bin_percentiles(values: np.ndarray, edges: np.ndarray, at: tuple[float, ...]) -> np.ndarray:
    """(len(at), B) percentiles of `values` (n,) in each bin, between the two nearest values."""
    parts = np.split(values.astype(np.float64), edges[1:-1])
    return np.array([np.percentile(part, at) for part in parts]).T


def bin_shares(codes: np.ndarray, groups: int, edges: np.ndarray) -> np.ndarray:
    """(groups, B) share of each bin's positions whose code is the group; columns sum to 1."""
    sizes = np.diff(edges)
    bins = np.repeat(np.arange(len(sizes)), sizes)
    counts = np.bincount(codes * len(sizes) + bins, minlength=groups * len(sizes))
    return counts.reshape(groups, len(sizes)) / sizes


def tally(codes: np.ndarray, groups: int, positions: np.ndarray, values: np.ndarray) -> Tally:
    """Rows, mean value and median position of each group.

    Args:
        codes: (n,) int64, the group of each entry, below `groups`.
        groups: C, how many there are.
        positions: (n,) int64 from 0, ascending.
        values: (n,) floats.
    """
    rows = np.bincount(codes, minlength=groups)
    sums = np.bincount(codes, weights=values.astype(np.float64), minlength=groups)
    # A stable sort keeps positions ascending inside a group, so its middle is its median.
    together = positions[np.argsort(codes, kind="stable")]
    starts = np.cumsum(rows) - rows
    some = rows > 0
    median = np.zeros(groups)
    low = together[starts[some] + (rows[some] - 1) // 2]
    high = together[starts[some] + rows[some] // 2]
    median[some] = (low + high) / 2 + 1
    return Tally(rows, sums / np.maximum(rows, 1), median)


def leading_groups(codes: np.ndarray, groups: int, limit: int) -> np.ndarray:
    """The groups to name, at most `limit`: those with the largest share of any one tenth.

    Where groups are alike in size, as in a balanced
    mixture, this finds what an order brings together, and otherwise it finds the frequent ones.
    Ties go to the more frequent group, then to the lower code. Groups without a position are
    never named.

    Returns:
        (at most limit,) int64 codes, the group with the largest peak first.
    """
    peaks = bin_shares(codes, groups, bin_edges(len(codes), 10)).max(axis=1)
    rows = np.bincount(codes, minlength=groups)
    ranked = np.lexsort((np.arange(groups), -rows, -peaks))
    return ranked[rows[ranked] > 0][:limit]
