"""An order in which test examples are covered: each choice adds most where least is there already.

Facility location towards a test set, with as many places as its examples have use for:

    F(S) = Σ_t Σ_r 2^(1-r) c_r(t),

where c_1(t) ≥ c_2(t) ≥ … are the `RANKS` largest max(0, cos(i, t)) of the chosen examples i ∈ S. A
second example for a test example that has one counts half, a third a quarter; with one rank alone
this is facility location, which is at its end once every test example has its nearest. An example
counts for the test examples in whose list it is, their `LIST` nearest; for others its cosine is 0.
Where test examples stand in sets with shares each counts by its set's; then Σ_t has weights.
F is a sum of weighted matroid ranks, hence submodular: what is chosen greedily has at least 1 - 1/e
of the best value (Nemhauser, Wolsey and Fisher, 1978).
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from zsg_jax.arrangement.greedy import greedily
from zsg_jax.arrangement.turns import longest_list

LIST = 256
RANKS = 16
SCALE = 1 << 24  # cosines are added as multiples of 2^-24, exactly, so that equal gains are equal


class Covered(NamedTuple):
    """Examples in the order in which they are chosen.

    Attributes:
        order: (n,) int64, those that add to F, from the first on.
        values: (n + 1,) float64, F of the first 0, 1, …, n of them.
        most: F of the whole pool.
    """

    order: np.ndarray
    values: np.ndarray
    most: float


def list_length(rows: int, tests: int) -> int:
    """How long the lists of so many test examples are, of so many training examples."""
    return min(LIST, rows, longest_list(tests))


def coverage(
    cosines: np.ndarray,
    index: np.ndarray,
    rows: int,
    wanted: int,
    counted: np.ndarray | None = None,
) -> Covered:
    """Chooses until `wanted` are chosen, or nothing adds to F any more.

    Args:
        cosines: (T, k) float32, of each test example with its nearest, nearest first.
        index: (T, k) int64, which training examples those are.
        rows: training examples.
        wanted: examples at most.
        counted: (T,) float64 up to 1, what each test example counts; None: all alike.

    Returns:
        The choice; of equals the lower index.
    """
    tests, length = index.shape
    weights = 1 << np.arange(RANKS)[::-1]
    scale = np.float64(SCALE) * (np.ones(tests) if counted is None else counted)[:, None]
    served = np.rint(np.maximum(cosines, 0) * scale).astype(np.int64)
    ends = np.arange(tests + 1) * length
    # A column holds the test examples in whose lists an example is.
    lists = csr_array((served.ravel(), index.ravel(), ends), (tests, rows)).tocsc()
    best = np.zeros((tests, RANKS), np.int64)

    def with_one_more(row: int) -> tuple[np.ndarray, np.ndarray]:
        at = slice(lists.indptr[row], lists.indptr[row + 1])
        here = lists.indices[at]
        old = best[here]
        # Each rank keeps its cosine, or takes the new one, or that of the rank above it.
        above = np.minimum(lists.data[at][:, None], np.roll(old, 1, axis=1))
        above[:, 0] = lists.data[at]
        return here, np.maximum(old, above)

    def gain(row: int) -> int:
        here, new = with_one_more(row)
        return int(((new - best[here]) @ weights).sum())

    bounds = np.asarray(lists.sum(axis=0, dtype=np.int64)).ravel() * weights[0]
    order, values = list[int](), [0]
    for row, added in greedily(bounds, gain):
        if not added or len(order) == wanted:
            break
        here, new = with_one_more(row)
        best[here] = new
        order.append(row)
        values.append(values[-1] + added)
    unit = SCALE * int(weights[0])
    ranks = min(RANKS, length)
    most = int((served[:, :ranks] @ weights[:ranks]).sum())
    return Covered(np.array(order, np.int64), np.array(values, np.float64) / unit, most / unit)
