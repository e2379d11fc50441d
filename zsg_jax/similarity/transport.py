"""Optimal transport between a training and a test set: what a row pays to reach the test set.

The plan is Sinkhorn's (ott-jax), in the log domain, annealed to an entropy so small that it is the
exact plan within a stated tolerance; each row's own mass is exact by construction.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from ott.geometry import epsilon_scheduler, geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import acceleration, sinkhorn

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.similarity.distances import check_distance
from zsg_jax.similarity.embeddings import Embeddings, check_pair, unit_embeddings
from zsg_jax.similarity.search.cosine import cosine_matrix
from zsg_jax.similarity.search.options import Search

RELATIVE_EPSILONS = (0.003, 0.01, 0.03)
# Costs and potentials are float32: a smaller share of the largest cost would be their rounding.
LEAST_EPSILON = 5e-5
BLOCK = 2**24  # pairs in hand at once where their costs are not kept
CHECKED_EVERY = 20  # iterations
START, DECAY, ANNEALED = 100.0, 0.98, 240  # the entropy's course: START · DECAY^ANNEALED < 1
DENSE = 2**26  # pairs whose costs are kept on the device, 256 MiB; more are computed again


class NotConverged(UserError):
    """Sinkhorn's iterations found no plan within the tolerance."""


class Transport(NamedTuple):
    """A transport plan P between uniform weights, as its costs.

    Attributes:
        distance: (N,) float64, OT_i = Σ_j P_ij·M_ij: what row i's mass, 1/N, pays in all.
        cost: Σ_i OT_i; for cosine a mean of -cos, between -1 and 1.
        marginal_error: Σ_j |Σ_i P_ij - 1/T|; rows have exactly 1/N.
        iterations: of Sinkhorn.
        epsilon: strength of the entropy, in the unit of the costs.
    """

    distance: np.ndarray
    cost: float
    marginal_error: float
    iterations: int
    epsilon: float


def optimal_transport(
    train: Embeddings,
    test: Embeddings,
    *,
    distance: str = "cosine",
    power: float = 1,
    relative_epsilons: Sequence[float] = RELATIVE_EPSILONS,
    tolerance: float = 1e-3,
    max_iterations: int = 20_000,
    search: Search = Search(),
) -> Transport:
    """Transports the training rows to the test rows at least cost (arXiv 2406.11721, similarity).

    Both sets have uniform weights; M_ij = dist(i, j)^power, dist being -cos or the Euclidean
    distance of unit rows. A constant added to all costs changes no plan, so that -cos is solved as
    1 - cos. The plan differs from the exact one by its entropy: on random clusters (600 by 60 to
    4,800 by 96 rows) the default epsilon gave a cost within 0.1 % of a standard deviation of the
    costs, and N·OT_i within 0.5 to 6 % of one in the mean over rows.

    Memory: (N, D) float32 unit rows on the host; up to 2^26 pairs, their costs in float32 on the
    host and the device; past that the unit rows on the device and 2^24 pairs at a time.

    Args:
        train: (N, D) floats, any length of row, N at least 1; an all-zero row has cosine 0.
        test: (T, D) floats, T at least 1.
        distance: "cosine" or "euclidean".
        power: of the distance; 1 for cosine.
        relative_epsilons: entropies to try, in standard deviations of the costs, until the plan
            converges with one. Where many rows are nearly as well off elsewhere, a small one may
            need more than `max_iterations`.
        tolerance: `marginal_error` at most.
        max_iterations: after which the tolerance must be met.
        search: devices for the cosines; the plan is solved on the first one of this process.

    Raises:
        UserError: no convergence, -cos to a power, an empty set, a NaN or an infinity, wrong ranks
            or dtypes, unequal D.
    """
    check_distance(distance)
    check(
        distance == "euclidean" or power == 1,
        f"power={power}: -cos has negative values, so only power=1 has a meaning; use "
        'distance="euclidean"',
    )
    check(power > 0, f"power={power}: it must be above 0")
    check(
        len(relative_epsilons) > 0 and min(relative_epsilons) > 0,
        f"relative_epsilons={tuple(relative_epsilons)} must be above 0, at least one",
    )
    train, test = check_pair(train, test)
    for what, rows in (("train", train), ("test", test)):
        check(len(rows) > 0, f"optimal transport: {what} is empty")
    x, y = unit_embeddings(train, "train"), unit_embeddings(test, "test")
    shape = (len(x), len(y))
    keep = np.empty(shape, np.float32) if shape[0] * shape[1] <= DENSE else None
    total = squares = largest = 0.0
    for at, cost in _costs(x, y, distance, power, search):
        if keep is not None:
            keep[at] = cost
        total, squares = total + float(cost.sum()), squares + float(np.square(cost).sum())
        largest = max(largest, float(cost.max()))
    pairs = shape[0] * shape[1]
    deviation = np.sqrt(max(0.0, squares / pairs - (total / pairs) ** 2))
    # Where all costs are zero any plan will do.
    least = LEAST_EPSILON * largest or 1.0
    for share in relative_epsilons:
        epsilon = max(share * deviation, least)
        potential, iterations = _solve(
            (x, y) if keep is None else (keep,),
            shape,
            (distance, float(power)),
            epsilon,
            tolerance=tolerance / 2,
            max_iterations=max_iterations,
            device=_device(search.mesh),
        )
        paid, mass = np.empty(len(x)), np.zeros(len(y))
        for at, cost in _costs(x, y, distance, power, search):
            score = (potential - cost) / epsilon
            plan = np.exp(score - score.max(axis=1, keepdims=True))
            plan /= plan.sum(axis=1, keepdims=True) * len(x)
            paid[at] = (plan * cost).sum(axis=1)
            mass += plan.sum(axis=0)
        error = float(np.abs(mass - 1 / len(y)).sum())
        if error <= tolerance:
            break
    if error > tolerance:
        raise NotConverged(
            f"optimal transport of {len(x):,} to {len(y):,} rows: after {iterations:,} iterations "
            f"the plan misses the test rows' weights by {error:.1e}, more than {tolerance:.1e}; "
            "take another encoder, another distance, or a measure other than optimal transport"
        )
    if distance == "cosine":
        paid -= 1 / len(x)
    return Transport(paid, float(paid.sum()), error, iterations, float(epsilon))


def _costs(
    x: np.ndarray, y: np.ndarray, distance: str, power: float, search: Search
) -> Iterator[tuple[slice, np.ndarray]]:
    """Costs in blocks of rows: where they stand, and (B, T) float64, all at least 0."""
    rows = max(1, BLOCK // len(y))
    for start in range(0, len(x), rows):
        at = slice(start, start + rows)
        cosines = cosine_matrix(x[at], y, search=search.quiet).astype(np.float64)
        yield at, _cost(cosines, distance, power, np)


def _device(mesh: Mesh | None) -> jax.Device:
    if mesh is None:
        return jax.local_devices()[0]
    return next(d for d in mesh.devices.flat if d.process_index == jax.process_index())


def _cost(cosines: Any, distance: str, power: float, numpy: Any = jnp) -> Any:
    """Costs of pairs by their cosines, at least 0: 1 - cos, or the Euclidean distance^power."""
    gap = numpy.maximum(1 - cosines, 0)
    return gap if distance == "cosine" else (2 * gap) ** (power / 2)


def _solve(
    arrays: tuple[np.ndarray, ...],
    shape: tuple[int, int],
    form: tuple[str, float],
    epsilon: float,
    *,
    tolerance: float,
    max_iterations: int,
    device: jax.Device,
) -> tuple[np.ndarray, int]:
    """The dual potential of the second set, from which the whole plan follows.

    Args:
        arrays: the (N, T) costs, or (N, D) and (T, D) unit rows to compute them from each time.
        shape: (N, T).
        form: distance and power, as `_cost` takes them.
        epsilon: strength of the entropy at the end; it comes down from 100 times that. To start
            from the potential of a like problem instead took more iterations, not fewer.
        tolerance: sum of the second marginal's errors at which to stop.
        max_iterations: to stop after in any case.
        device: to compute on.

    Returns:
        (T,) float64, and the number of iterations.
    """
    # To powers of two, so that sets that grow share a few compilations; what is added has no mass.
    n, t = (max(8, 1 << (size - 1).bit_length()) for size in shape)
    padded = []
    for array, rows in zip(arrays, (n, t), strict=False):
        wide = np.zeros((rows, t if len(arrays) == 1 else array.shape[1]), np.float32)
        wide[: array.shape[0], : array.shape[1]] = array
        padded.append(jax.device_put(wide, device))
    found, errors = _jitted(device.platform)(
        tuple(padded),
        np.int32(shape[0]),
        np.int32(shape[1]),
        np.float32(epsilon),
        np.float32(tolerance),
        form=form,
        max_iterations=max_iterations,
    )
    iterations = int((np.asarray(errors) != -1).sum()) * CHECKED_EVERY
    return np.asarray(found, np.float64)[: shape[1]], iterations


@functools.cache
def _jitted(platform: str) -> Any:
    options = {"xla_gpu_deterministic_ops": True} if platform == "gpu" else None
    static = ("form", "max_iterations")
    return jax.jit(_iterate, static_argnames=static, compiler_options=options)


def _iterate(
    arrays: tuple[jax.Array, ...],
    rows: jax.Array,
    tests: jax.Array,
    epsilon: jax.Array,
    tolerance: jax.Array,
    *,
    form: tuple[str, float],
    max_iterations: int,
) -> tuple[jax.Array, jax.Array]:
    schedule = epsilon_scheduler.Epsilon(epsilon, START, DECAY)
    if len(arrays) == 1:
        geom = geometry.Geometry(arrays[0], epsilon=schedule)
    else:
        x, y = arrays
        geom = _Blocks(x, y, schedule, form)
    a, b = (
        jnp.where(jnp.arange(size) < real, 1 / real, 0.0)
        for size, real in zip(geom.shape, (rows, tests), strict=True)
    )
    # Any: ott's annotations leave out that numbers may be traced, and hide Momentum's fields.
    accelerated: Any = acceleration.Momentum
    solver: Any = sinkhorn.Sinkhorn
    solver = solver(
        threshold=tolerance,
        inner_iterations=CHECKED_EVERY,
        min_iterations=ANNEALED - 1,
        max_iterations=max_iterations,
        # Over-relaxation: some four times fewer iterations where the entropy is small.
        momentum=accelerated(value=1.5),
    )
    found = solver(linear_problem.LinearProblem(geom, a=a, b=b))
    return found.potentials[1], found.errors


@jax.tree_util.register_pytree_node_class
class _Blocks(geometry.Geometry):
    """Costs of unit rows, a block of the first set at a time.

    ott's own PointCloud does this by a part of jax.interpreters that jax 0.10 no longer has.
    """

    def __init__(self, x: jax.Array, y: jax.Array, epsilon: Any, form: tuple[str, float]) -> None:
        super().__init__(epsilon=epsilon)
        self.x, self.y, self.form = x, y, form

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x), len(self.y)

    @property
    def dtype(self) -> Any:
        return self.x.dtype

    def apply_lse_kernel(
        self, f: jax.Array, g: jax.Array, eps: Any, vec: Any = None, axis: int = 0
    ) -> tuple[jax.Array, jax.Array]:
        """ε·log Σ exp((f + g - C)/ε) over `axis`, less the potential of the other axis."""
        n, t = self.shape
        rows = max(1, min(n, 1 << ((BLOCK // t).bit_length() - 1)))  # divides n, a power of two
        blocks = (self.x.reshape(n // rows, rows, -1), f.reshape(n // rows, rows))

        def exponents(block: tuple[jax.Array, jax.Array]) -> jax.Array:
            x_BxD, f_B = block
            cosines_BxT = jnp.dot(x_BxD, self.y.T, precision=lax.Precision.HIGHEST)
            return (f_B[:, None] + g - _cost(cosines_BxT, *self.form)) / eps

        def add(sum_T: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            part_T = jax.nn.logsumexp(exponents(block), axis=0)
            return jnp.logaddexp(sum_T, part_T), None

        if axis == 1:
            result = lax.map(lambda block: jax.nn.logsumexp(exponents(block), axis=1), blocks)
            result, remove = result.reshape(-1), f
        else:
            result, remove = lax.scan(add, jnp.full(t, -jnp.inf), blocks)[0], g
        return eps * result - jnp.where(jnp.isfinite(remove), remove, 0), jnp.ones(1)

    def tree_flatten(self) -> tuple[tuple, Any]:
        return (self.x, self.y, self._epsilon_init), self.form

    @classmethod
    def tree_unflatten(cls, aux_data: Any, children: Any) -> "_Blocks":
        x, y, epsilon = children
        return cls(x, y, epsilon, aux_data)
