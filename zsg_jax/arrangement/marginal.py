"""Maximal marginal relevance: near to the test set, and unlike what has been chosen already.

Each choice is the example i that has most of

    w · max_t cos(i, t) - (1 - w) · max_{s ∈ S} max(0, cos(i, s)),

t the test examples and S those chosen before (Carbonell and Goldstein, 1998). Sets of test examples
choose in turns, each by its own and against all of S. A chosen example counts against those in
whose list it is, their `diverse.LIST` nearest of the pool; against others its cosine is 0. So the
lists of `diverse` serve, and no matrix is held.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csc_array

from zsg_jax.arrangement.diverse import SCALE
from zsg_jax.arrangement.greedy import greedily
from zsg_jax.arrangement.shares import Shares

PARTS = 100  # weights are hundredths, so that sums are exact and equals are equal


class Marginal(NamedTuple):
    """Examples in the order in which they are chosen.

    Attributes:
        order: (n,) int64.
        redundancy: (n,) float64, of each the largest cosine, at least 0, with one chosen before.
    """

    order: np.ndarray
    redundancy: np.ndarray


def marginal(
    lists: csc_array,
    relevances: Sequence[np.ndarray],
    weight: int,
    wanted: int,
    shares: Shares | None = None,
) -> Marginal:
    """Chooses `wanted` of N examples; of equals the lower index comes first.

    Args:
        lists: (N, N) int64, as `diverse.neighbour_lists` gives them.
        relevances: for each set of test examples (N,) floats, each example's largest cosine with
            one of them.
        weight: hundredths of it that count, from 1 to 100; the rest is that of redundancy.
        wanted: at most N.
        shares: the sets, told of what they choose, which is less where all have budgets; None: they
            are one.
    """
    shares = Shares.of_one(1) if shares is None else shares
    like = np.zeros(lists.shape[0], np.int64)
    redundancy = dict[int, int]()

    def own(relevance: np.ndarray) -> Iterator[int]:
        near = weight * np.rint(relevance * np.float64(SCALE)).astype(np.int64)
        for row, _ in greedily(near, lambda row: int(near[row] - (PARTS - weight) * like[row])):
            if row not in redundancy:
                redundancy[row] = int(like[row])
                at = slice(lists.indptr[row], lists.indptr[row + 1])
                here = lists.indices[at]
                like[here] = np.maximum(like[here], lists.data[at])
                yield row

    order = shares.choose([own(one) for one in relevances], wanted)
    found = [redundancy[row] for row in order]
    return Marginal(np.array(order, np.int64), np.array(found, np.float64) / SCALE)
