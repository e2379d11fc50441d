"""Optimal transport between a training and a test set: what an example pays to reach the test set.

The plan is exact, by POT's network simplex, wherever half of the machine's memory holds it; past
that, or on request, it is that of `sinkhorn`.
"""

import math
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from zsg_jax.runtime.errors import check
from zsg_jax.runtime.processes import from_all
from zsg_jax.runtime.progress import say
from zsg_jax.similarity.embeddings import Embeddings, check_pair, unit_embeddings
from zsg_jax.similarity.names import check_distance
from zsg_jax.similarity.search.cosine import cosine_matrix
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.sinkhorn import sinkhorn

PAIR_BYTES = 48  # a pair's cost, its share of the plan, and what the simplex keeps of it
BLOCK = 2**24  # pairs whose costs are computed at a time


class Transport(NamedTuple):
    """A transport plan P between uniform weights, as its costs.

    Attributes:
        distance: (N,) float64, OT_i = Σ_j P_ij·M_ij: what example i's mass, 1/N, pays in all.
        cost: Σ_i OT_i; for cosine a mean of -cos, between -1 and 1.
        facts: "plan", "exact" or "sinkhorn"; of the latter epsilon, marginal_error, iterations.
    """

    distance: np.ndarray
    cost: float
    facts: dict[str, Any]


def optimal_transport(
    train: Embeddings,
    test: Embeddings,
    *,
    distance: str = "cosine",
    exact: bool | None = None,
    search: Search = Search(),
) -> Transport:
    """Transports the training set to the test set at least cost (arXiv 2406.11721, similarity).

    Both sets have uniform weights, and M_ij is the distance of two examples. A constant added to
    all costs changes no plan, so that -cos is solved as 1 - cos.

    Memory: the (N, D) float32 unit embeddings; 48 bytes a pair for the exact plan.

    Args:
        train: (N, D) floats of any length, N at least 1; an all-zero one has cosine 0.
        test: (T, D) floats, T at least 1.
        distance: "cosine" or "euclidean".
        exact: False for Sinkhorn's plan; None for the exact one where memory holds it.
        search: devices for the cosines.

    Raises:
        UserError: no convergence, an empty set, a NaN or an infinity, wrong ranks or dtypes,
            unequal D.
    """
    check_distance(distance)
    train, test = check_pair(train, test)
    for what, embeddings in (("train", train), ("test", test)):
        check(len(embeddings) > 0, f"optimal transport: {what} is empty")
    x, y = unit_embeddings(train, "train"), unit_embeddings(test, "test")
    cost = _one_minus if distance == "cosine" else _euclidean

    def blocks() -> Iterator[tuple[slice, np.ndarray]]:
        rows = max(1, BLOCK // len(y))
        for start in range(0, len(x), rows):
            at = slice(start, start + rows)
            cosines = cosine_matrix(x[at], y, search=search.quiet).astype(np.float64)
            yield at, cost(cosines, np)

    if exact is None:
        exact = _fits(len(x), len(y), search.mesh)
    if exact:
        costs = np.empty((len(x), len(y)))
        for at, block in blocks():
            costs[at] = block
        facts: dict[str, Any] = {}
        paid = _paid_exactly(costs)
    else:
        paid, facts = sinkhorn(x, y, cost, blocks)
    if distance == "cosine":
        paid -= 1 / len(x)
    facts["plan"] = "exact" if exact else "sinkhorn"
    return Transport(paid, float(paid.sum()), facts)


def _one_minus(cosines: Any, numpy: Any) -> Any:
    return numpy.maximum(1 - cosines, 0)


def _euclidean(cosines: Any, numpy: Any) -> Any:
    return numpy.sqrt(numpy.maximum(2 - 2 * cosines, 0))


def _fits(n: int, t: int, mesh: Mesh | None) -> bool:
    """Whether the machine is made for the exact plan of so many pairs; what is free is no matter.

    A plan that depended on what else runs would give an order that nobody could repeat. Of the
    machines of a mesh the smallest decides.
    """
    wanted = n * t * PAIR_BYTES
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if mesh is not None:
        memory = int(min(one[0] for one in from_all(np.array([memory]), mesh)))
    if wanted > memory // 2:
        say(
            f"optimal transport: the exact plan of {n:,} to {t:,} examples needs "
            f"{wanted / 1e9:,.0f} GB, more than half of a machine's memory: Sinkhorn's instead"
        )
    return wanted <= memory // 2


def _paid_exactly(costs_NxT: np.ndarray) -> np.ndarray:
    """(N,) float64, what each example pays under the exact plan."""
    # POT imports every array library that is there, which takes seconds; NumPy's arrays do.
    for library in ("PYTORCH", "TENSORFLOW", "CUPY", "JAX"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{library}", "1")
    import ot

    n, t = costs_NxT.shape
    # Whole numbers as weights, so that whatever is added of them is exact.
    supply, demand = t // math.gcd(n, t), n // math.gcd(n, t)
    plan_NxT, log = ot.emd(
        np.full(n, float(supply)),
        np.full(t, float(demand)),
        costs_NxT,
        numItermax=2**40,  # of pivots: it ends by itself
        log=True,
    )
    check(log["warning"] is None, f"optimal transport: no exact plan: {log['warning']}")
    return np.einsum("nt,nt->n", plan_NxT, costs_NxT) / (n * supply)
