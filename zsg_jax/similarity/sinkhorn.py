"""Sinkhorn's plan of optimal transport: entropic, a block of costs at a time, so of any size.

In the log domain and over-relaxed; the entropy shrinks from sweep to sweep until the plan is the
exact one within a stated tolerance. Each training example's own mass is exact by construction.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zsg_jax.runtime.errors import UserError

# Tried until a plan converges: the entropy, in standard deviations of the costs, and how far a
# potential moves along; 1 always converges, given time, and more does so sooner.
TRIED = ((0.003, 1.7), (0.01, 1.5), (0.03, 1.0))
# Costs and potentials are float32: a smaller share of the largest cost would be their rounding.
LEAST_EPSILON = 5e-5
BLOCK = 2**22  # pairs in hand at once
START, DECAY = 100.0, 0.95  # the entropy's course: START times what it is to be, less every sweep
TOLERANCE, SWEEPS = 1e-3, 5000  # marginal error of a plan, and how long each entropy is tried
CHECKED_EVERY = 20  # sweeps: one that does not relax, and tells the error


class NotConverged(UserError):
    """Sinkhorn's iterations found no plan within the tolerance."""


def sinkhorn(
    x: np.ndarray,
    y: np.ndarray,
    cost: Callable[[Any, Any], Any],
    blocks: Callable[[], Iterator[tuple[slice, np.ndarray]]],
) -> tuple[np.ndarray, dict[str, Any]]:
    """Transports N unit embeddings to T at least cost, but for the entropy.

    On random clusters (600 by 60 to 4,800 by 96) the first epsilon gave a cost within 0.1 % of a
    standard deviation of the costs, and N·OT_i within 0.5 to 6 % of one in the mean over examples.

    Args:
        x, y: (N, D) and (T, D) float32 of length one; both go to this process's first device.
        cost: makes costs of cosines with the array library that it is given.
        blocks: gives all costs, (B, T) float64 at a time, and where each block stands.

    Returns:
        (N,) float64, what each training example's mass, 1/N, pays; and, as JSON values, the
        strength of the entropy in the unit of the costs, Σ_j |Σ_i P_ij - 1/T|, and the sweeps
        over all costs that it took.

    Raises:
        NotConverged: no entropy gave a plan whose marginal error is 1e-3 at most.
    """
    total = squares = largest = 0.0
    for _, costs in blocks():
        total, squares = total + float(costs.sum()), squares + float(np.square(costs).sum())
        largest = max(largest, float(costs.max()))
    pairs = len(x) * len(y)
    deviation = np.sqrt(max(0.0, squares / pairs - (total / pairs) ** 2))
    for share, relaxed in TRIED:
        # Where all costs are zero any plan will do.
        epsilon = float(max(share * deviation, LEAST_EPSILON * largest or 1.0))
        potential, iterations = _potential(x, y, cost, epsilon, relaxed)
        paid, mass = np.empty(len(x)), np.zeros(len(y))
        for at, costs in blocks():
            score = (potential - costs) / epsilon
            plan = np.exp(score - score.max(axis=1, keepdims=True))
            plan /= plan.sum(axis=1, keepdims=True) * len(x)
            paid[at] = (plan * costs).sum(axis=1)
            mass += plan.sum(axis=0)
        error = float(np.abs(mass - 1 / len(y)).sum())
        if error <= TOLERANCE:
            facts = {"epsilon": epsilon, "marginal_error": error, "iterations": iterations}
            return paid, facts
    raise NotConverged(
        f"optimal transport of {len(x):,} to {len(y):,} examples: after {iterations:,} iterations "
        f"Sinkhorn's plan misses the test examples' weights by {error:.1e}, more than "
        f"{TOLERANCE:.1e}; take a smaller pool, of which the plan is exact, another encoder, or a "
        "measure other than optimal transport"
    )


def _potential(
    x: np.ndarray, y: np.ndarray, cost: Any, epsilon: float, relaxed: float
) -> tuple[np.ndarray, int]:
    """The dual potential of the second set, (T,) float64, from which the whole plan follows."""
    rows = max(1, min(len(x), BLOCK // len(y)))
    padded = np.zeros((-(-len(x) // rows) * rows, x.shape[1]), np.float32)
    padded[: len(x)] = x
    device = jax.local_devices()[0]
    found, iterations = _jitted(cost, device.platform)(
        jax.device_put(padded.reshape(-1, rows, x.shape[1]), device),
        jax.device_put(y, device),
        len(x),
        epsilon,
        relaxed,
        TOLERANCE / 2,
        SWEEPS,
    )
    return np.asarray(found, np.float64), int(iterations)


@functools.cache
def _jitted(cost: Any, platform: str) -> Any:
    options = {"xla_gpu_deterministic_ops": True} if platform == "gpu" else None
    return jax.jit(functools.partial(_iterate, cost), compiler_options=options)


def _iterate(
    cost: Any,
    x_NxBxD: jax.Array,
    y_TxD: jax.Array,
    count: jax.Array,
    epsilon: jax.Array,
    over: jax.Array,
    tolerance: jax.Array,
    most: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    real_NxB = jnp.arange(x_NxBxD.shape[0] * x_NxBxD.shape[1]).reshape(x_NxBxD.shape[:2]) < count
    log_t = jnp.log(jnp.float32(len(y_TxD)))

    def sweep(state: Any) -> Any:
        f_NxB, g_T, done, _ = state
        eps = epsilon * jnp.maximum(1, START * DECAY ** done.astype(jnp.float32))
        # With an exact potential of the first set, the mass at the second tells the plan's error.
        relaxed = jnp.where(done % CHECKED_EVERY == 0, 1.0, over)

        def block(mass_T: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            x_BxD, f_B, real_B = part
            cosines_BxT = jnp.dot(x_BxD, y_TxD.T, precision=lax.Precision.HIGHEST)
            scores_BxT = (g_T - cost(cosines_BxT, jnp)) / eps
            exact_B = -eps * (jax.nn.logsumexp(scores_BxT, axis=1) + jnp.log(count))
            f_B = f_B + relaxed * (exact_B - f_B)
            shifted_BxT = jnp.where(real_B[:, None], f_B[:, None] / eps + scores_BxT, -jnp.inf)
            return jnp.logaddexp(mass_T, jax.nn.logsumexp(shifted_BxT, axis=0)), f_B

        start_T = jnp.full_like(g_T, -jnp.inf)
        log_mass_T, f_NxB = lax.scan(block, start_T, (x_NxBxD, f_NxB, real_NxB))
        error = jnp.sum(jnp.abs(jnp.exp(log_mass_T) - jnp.exp(-log_t)))
        told = (done % CHECKED_EVERY == 0) & (eps == epsilon)
        error = jnp.where(told, error, jnp.inf)
        # The potential that the error is of is given back, once it is small.
        step_T = jnp.where(error <= tolerance, 0.0, over * eps * (log_mass_T + log_t))
        return f_NxB, g_T - step_T, done + 1, error

    def going_on(state: Any) -> jax.Array:
        return (state[2] < most) & (state[3] > tolerance)

    start = (
        jnp.zeros(x_NxBxD.shape[:2]), jnp.zeros(len(y_TxD)), jnp.int32(0), jnp.float32(jnp.inf)
    )  # fmt: skip
    _, g_T, done, _ = lax.while_loop(going_on, sweep, start)
    return g_T, done
