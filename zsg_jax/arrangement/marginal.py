"""Maximal marginal relevance: near to the test set, and unlike what has been chosen already.

Each choice is the example i that has most of

    w · max_t cos(i, t) - (1 - w) · max_{s ∈ S} max(0, cos(i, s)),

t the test examples and S those chosen before (Carbonell and Goldstein, 1998). A chosen example
counts against those in whose list it is, their `diverse.LIST` nearest of the pool; against others
its cosine is 0. So the lists of `diverse` serve, and no matrix is held.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from zsg_jax.arrangement.diverse import SCALE
from zsg_jax.arrangement.greedy import greedily

PARTS = 100  # weights are hundredths, so that sums are exact and equals are equal


class Marginal(NamedTuple):
    """Examples in the order in which they are chosen.

    Attributes:
        order: (n,) int64.
        redundancy: (n,) float64, of each the largest cosine, at least 0, with one chosen before.
    """

    order: np.ndarray
    redundancy: np.ndarray


def marginal(lists: csc_array, relevance: np.ndarray, weight: int, wanted: int) -> Marginal:
    """Chooses `wanted` of N examples; of equals the lower index comes first.

    Args:
        lists: (N, N) int64, as `diverse.neighbour_lists` gives them.
        relevance: (N,) floats, each example's largest cosine with a test example.
        weight: hundredths of it that count, from 1 to 100; the rest is that of redundancy.
        wanted: at most N.
    """
    near = weight * np.rint(relevance * np.float64(SCALE)).astype(np.int64)
    like = np.zeros(len(near), np.int64)
    order, redundancy = list[int](), list[int]()
    chosen = greedily(near, lambda row: int(near[row] - (PARTS - weight) * like[row]))
    while len(order) < wanted:
        row, _ = next(chosen)
        order.append(row)
        redundancy.append(int(like[row]))
        at = slice(lists.indptr[row], lists.indptr[row + 1])
        here = lists.indices[at]
        like[here] = np.maximum(like[here], lists.data[at])
    return Marginal(np.array(order, np.int64), np.array(redundancy, np.float64) / SCALE)
