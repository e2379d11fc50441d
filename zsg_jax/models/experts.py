"""Experts in the place of a feed-forward layer, of which a token takes a few (arXiv 2101.03961).

Every expert is computed for every token, and counts by the share that the token gives it, 0 for
those it does not take: no token is ever dropped, whatever shares its batch. Letters in names give
shapes: B sequences, L positions, D width, E experts.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models.checks import check_fields
from zsg_jax.models.layers import ACTIVATIONS, linear
from zsg_jax.models.placement import Compute
from zsg_jax.runtime.errors import check


@dataclass(frozen=True)
class Routing:
    """How tokens take experts; raises `UserError` on values that make no layer.

    Attributes:
        experts: E, those of a layer.
        chosen: those that a token takes.
        normalized: whether the shares of a token's experts add up to 1.
    """

    experts: int
    chosen: int
    normalized: bool = True

    def __post_init__(self) -> None:
        check_fields("experts", self)
        check(
            self.chosen <= self.experts,
            f"experts: chosen={self.chosen} of {self.experts}; a token takes as many at most",
        )


class Kernels(nnx.Module):
    """A dense layer without bias of every expert: normal weights with deviation 0.02."""

    def __init__(self, experts: int, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        shape = experts, inputs, outputs
        self.kernel = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))


class Experts(nnx.Module):
    """The gated feed-forward layers of all experts."""

    def __init__(self, experts: int, width: int, inner: int, rngs: nnx.Rngs) -> None:
        self.gate = Kernels(experts, width, inner, rngs)
        self.up = Kernels(experts, width, inner, rngs)
        self.down = Kernels(experts, inner, width, rngs)


class MoE(nnx.Module):
    """The router and the experts of a layer, called as `layers.GatedMLP`."""

    def __init__(
        self,
        width: int,
        inner: int,
        routing: Routing,
        compute: Compute,
        rngs: nnx.Rngs,
        *,
        activation: str = "silu",
    ) -> None:
        self.router = linear(width, routing.experts, compute, rngs)
        self.experts = Experts(routing.experts, width, inner, rngs)
        self.routing, self.activation = routing, activation

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """(B, L, D) in the dtype of `x`, summed in float32."""
        shares_BxLxE = shares(self.router(x_BxLxD), self.routing)
        dtype, act = x_BxLxD.dtype, ACTIVATIONS[self.activation]
        parts = self.experts.gate, self.experts.up, self.experts.down
        kernels = [part.kernel[...].astype(dtype) for part in parts]

        # One after the other: of all experts' inner numbers, those of one are held at a time, and
        # the backward pass computes them again.
        @jax.checkpoint
        def one(x: jax.Array, gate: jax.Array, up: jax.Array, down: jax.Array) -> jax.Array:
            return (act(x @ gate) * (x @ up)) @ down

        def add(total: jax.Array, expert: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            share_BxL, *own = expert
            return total + share_BxL[..., None] * one(x_BxLxD, *own).astype(jnp.float32), None

        start = jnp.zeros(x_BxLxD.shape, jnp.float32)
        total, _ = jax.lax.scan(add, start, (jnp.moveaxis(shares_BxLxE, -1, 0), *kernels))
        return total.astype(dtype)


def shares(logits_BxLxE: jax.Array, routing: Routing) -> jax.Array:
    """What each expert counts for each token, (B, L, E) float32: 0 for those it does not take."""
    likely = jax.nn.softmax(logits_BxLxE.astype(jnp.float32), axis=-1)
    most, index = jax.lax.top_k(likely, routing.chosen)
    if routing.normalized:
        most /= most.sum(axis=-1, keepdims=True)
    taken = jax.nn.one_hot(index, routing.experts, dtype=jnp.float32)
    return (most[..., None] * taken).sum(axis=-2)
