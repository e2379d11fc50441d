"""Part of a pool that stands for the rest: examples near to as many others as possible.

Facility location, maximized greedily: each choice is the example that adds most to

    F(S) = Σ_j max_{i ∈ S} max(0, cos(i, j)),

the sum over the pool of how near the nearest chosen example is. An example j counts as served only
by those in its list, its `LIST` nearest of the pool, itself among them; outside of it a cosine
counts as 0. So N lists are held, never N × N cosines. F is submodular: what is chosen greedily has
at least 1 - 1/e of the best value (Nemhauser, Wolsey and Fisher, 1978), and what an example adds
can only fall, so that most need not be looked at again (Minoux, 1978).
"""

import heapq
from functools import partial
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from zsg_jax.similarity.embeddings import Embeddings
from zsg_jax.similarity.search.cosine import top_k
from zsg_jax.similarity.search.options import Search

LIST = 256
QUERIES = 4096  # examples whose lists are made in one pass over the pool
# Cosines are added as multiples of 2^-30: such sums are exact, so that equal gains are equal.
SCALE = 1 << 30


class Neighbourhoods:
    """The lists of a pool, and its examples in the order in which they are chosen from it.

    Some 4 KB an example while the lists are made, half of that afterwards.
    """

    def __init__(self, pool: Embeddings, *, search: Search = Search()) -> None:
        """Makes the lists, in a pass over the pool for each `QUERIES` examples of it.

        Args:
            pool: (N, D) floats; an all-zero embedding has cosine 0 with everything.
            search: devices, block size and progress.

        Raises:
            UserError: see `top_k`.
        """
        count = len(pool)
        self.length = min(LIST, count)
        index = np.empty((count, self.length), np.int32)
        served = np.empty((count, self.length), np.int32)
        for start in range(0, count, QUERIES):
            here = slice(start, start + QUERIES)
            cosines, index[here] = top_k(pool, pool[here], self.length, search=search)
            served[here] = np.rint(np.maximum(cosines, 0) * np.float64(SCALE))
        self._most = int(served.max(axis=1, initial=0).sum(dtype=np.int64))
        ends = np.arange(count + 1) * self.length
        # A column holds the examples whose lists its example is in.
        self._lists = csr_array((served.ravel(), index.ravel(), ends), (count, count)).tocsc()
        self._best = np.zeros(count, np.int64)
        # What each would add, as last computed: never too little.
        gains = np.asarray(self._lists.sum(axis=0, dtype=np.int64)).ravel()
        self._left = [(-gain, row) for row, gain in enumerate(gains.tolist())]
        heapq.heapify(self._left)
        self._order: list[int] = []
        self._values = [0]

    def first(self, count: int) -> np.ndarray:
        """(count,) int64, the first that are chosen, at most N; of equals the lower index.

        Where nothing adds to F any more, because all are copies of chosen ones or 0, the rest
        follows by index.
        """
        while len(self._order) < count:
            self._choose()
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

    def _choose(self) -> None:
        push = partial(heapq.heappushpop, self._left)
        _, row = heapq.heappop(self._left)
        while True:
            at = slice(self._lists.indptr[row], self._lists.indptr[row + 1])
            rows, served = self._lists.indices[at], self._lists.data[at]
            gain = int(np.maximum(served - self._best[rows], 0).sum())
            _, next_row = push((-gain, row))
            if next_row == row:
                break
            row = next_row
        self._best[rows] = np.maximum(self._best[rows], served)
        self._order.append(row)
        self._values.append(self._values[-1] + gain)
