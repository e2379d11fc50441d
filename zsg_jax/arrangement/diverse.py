"""Part of a pool that stands for the rest: examples near to as many others as possible.

Facility location, maximized greedily: each choice is the example that adds most to

    F(S) = Σ_j max_{i ∈ S} max(0, cos(i, j)),

the sum over the pool of how near the nearest chosen example is. An example j counts as served only
by those in its list, its `LIST` nearest of the pool, itself among them; outside of it a cosine
counts as 0. So N lists are held, never N × N cosines. F is submodular: what is chosen greedily has
at least 1 - 1/e of the best value (Nemhauser, Wolsey and Fisher, 1978), and what an example adds
can only fall, which `greedily` makes use of.
"""

from typing import Any

import numpy as np
from scipy.sparse import csc_array, csr_array

from zsg_jax.arrangement.greedy import greedily
from zsg_jax.similarity.embeddings import Embeddings
from zsg_jax.similarity.search.cosine import top_k
from zsg_jax.similarity.search.options import Search

LIST = 256
QUERIES = 4096  # examples whose lists are made in one pass over the pool
# Cosines are added as multiples of 2^-30: such sums are exact, so that equal gains are equal.
SCALE = 1 << 30


def neighbour_lists(pool: Embeddings, *, search: Search = Search()) -> csc_array:
    """The lists of a pool, in a pass over it for each `QUERIES` examples.

    Some 4 KB an example while they are made, half of that afterwards.

    Args:
        pool: (N, D) floats; an all-zero embedding has cosine 0 with everything.
        search: devices, block size and progress.

    Returns:
        (N, N) int64, sparse: a column holds max(0, cos) · `SCALE` of the examples in whose lists
        its example is.

    Raises:
        UserError: see `top_k`.
    """
    count = len(pool)
    length = min(LIST, count)
    index = np.empty((count, length), np.int32)
    served = np.empty((count, length), np.int32)
    for start in range(0, count, QUERIES):
        here = slice(start, start + QUERIES)
        cosines, index[here] = top_k(pool, pool[here], length, search=search)
        served[here] = np.rint(np.maximum(cosines, 0) * np.float64(SCALE))
    ends = np.arange(count + 1) * length
    return csr_array((served.ravel(), index.ravel(), ends), (count, count)).tocsc()


class Neighbourhoods:
    """The lists of a pool, and its examples in the order in which they are chosen from it."""

    def __init__(self, lists: csc_array) -> None:
        """Takes what `neighbour_lists` gives."""
        self.lists = lists
        self.length = min(LIST, lists.shape[0])
        most, self._best = np.zeros((2, lists.shape[0]), np.int64)
        np.maximum.at(most, lists.indices, lists.data)
        self._most = int(most.sum())
        bounds = np.asarray(lists.sum(axis=0, dtype=np.int64)).ravel()
        self._chosen = greedily(bounds, self._gain)
        self._order: list[int] = []
        self._values = [0]

    def first(self, count: int) -> np.ndarray:
        """(count,) int64, the first that are chosen, at most N; of equals the lower index.

        Where nothing adds to F any more, because all are copies of chosen ones or 0, the rest
        follows by index.
        """
        while len(self._order) < count:
            row, gain = next(self._chosen)
            rows, served = self._column(row)
            self._best[rows] = np.maximum(self._best[rows], served)
            self._order.append(row)
            self._values.append(self._values[-1] + gain)
        return np.array(self._order[:count], np.int64)

    def facts(self, count: int) -> dict[str, Any]:
        """What the first `count` come to, as JSON values: F, and its share of what all come to."""
        self.first(count)
        value = self._values[count]
        return {
            "neighbours": self.length,
            "facility_location": value / SCALE,
            "covered": value / self._most if self._most else 1.0,
        }

    def _column(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        at = slice(self.lists.indptr[row], self.lists.indptr[row + 1])
        return self.lists.indices[at], self.lists.data[at]

    def _gain(self, row: int) -> int:
        rows, served = self._column(row)
        return int(np.maximum(served - self._best[rows], 0).sum())
