"""Experts in the place of a feed-forward layer, of which a token takes a few (arXiv 2101.03961).

Every expert is computed for every token, and counts by the share that the token gives it, 0 for
those it does not take: no token is ever dropped, whatever shares its batch. Letters in names give
shapes: B sequences, L positions, D width, E experts.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models.checks import check_fields
from zsg_jax.models.layers import ACTIVATIONS, linear
from zsg_jax.models.placement import Compute, Params
from zsg_jax.runtime.errors import check


@dataclass(frozen=True)
class Routing:
    """How tokens take experts; raises `UserError` on values that make no layer.

    Attributes:
        experts: E, those of a layer.
        chosen: those that a token takes.
        normalized: whether the shares of a token's experts add up to 1.
        bias: whether the router and the experts have biases.
        limit: of a gate, from above, and of what it lets through, from both sides; None: none. With
            it an expert is gpt-oss's: (up + 1) · gate · sigmoid(slope · gate).
        slope: see `limit`.
    """

    experts: int
    chosen: int
    normalized: bool = True
    bias: bool = False
    limit: float | None = None
    slope: float = 1.702

    def __post_init__(self) -> None:
        check_fields("experts", self)
        check(
            self.chosen <= self.experts,
            f"experts: chosen={self.chosen} of {self.experts}; a token takes as many at most",
        )


class Dense(nnx.Module):
    """A dense layer of every expert: normal weights with deviation 0.02, a bias of 0 if any."""

    def __init__(self, routing: Routing, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        shape = routing.experts, inputs, outputs
        self.kernel = nnx.Param(0.02 * jax.random.normal(rngs.params(), shape))
        if routing.bias:
            self.bias = nnx.Param(jnp.zeros((routing.experts, outputs)))


class Experts(nnx.Module):
    """The gated feed-forward layers of all experts."""

    def __init__(self, routing: Routing, width: int, inner: int, rngs: nnx.Rngs) -> None:
        self.gate = Dense(routing, width, inner, rngs)
        self.up = Dense(routing, width, inner, rngs)
        self.down = Dense(routing, inner, width, rngs)


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
        self.router = linear(width, routing.experts, compute, rngs, bias=routing.bias)
        if routing.bias:
            # Unlike others, as transformers begins it.
            drawn = jax.random.normal(rngs.params(), (routing.experts,))
            self.router.bias = nnx.Param(0.02 * drawn)
        self.experts = Experts(routing, width, inner, rngs)
        self.routing, self.activation = routing, activation

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """(B, L, D) in the dtype of `x`, summed in float32."""
        shares_BxLxE = shares(self.router(x_BxLxD), self.routing)
        dtype = x_BxLxD.dtype
        parts = nnx.to_pure_dict(nnx.state(self.experts))
        experts = jax.tree.map(
            lambda leaf: leaf.astype(dtype), tuple(parts[name] for name in ("gate", "up", "down"))
        )

        # One after the other: of all experts' inner numbers, those of one are held at a time, and
        # the backward pass computes them again.
        @jax.checkpoint
        def one(x: jax.Array, gate: Params, up: Params, down: Params) -> jax.Array:
            return _dense(self._inner(_dense(x, gate), _dense(x, up)), down)

        def add(total: jax.Array, expert: Any) -> tuple[jax.Array, None]:
            share_BxL, own = expert
            return total + share_BxL[..., None] * one(x_BxLxD, *own).astype(jnp.float32), None

        start = jnp.zeros(x_BxLxD.shape, jnp.float32)
        total, _ = jax.lax.scan(add, start, (jnp.moveaxis(shares_BxLxE, -1, 0), experts))
        return total.astype(dtype)

    def _inner(self, gate: jax.Array, up: jax.Array) -> jax.Array:
        limit = self.routing.limit
        if limit is None:
            return ACTIVATIONS[self.activation](gate) * up
        gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
        return (up + 1) * gate * jax.nn.sigmoid(self.routing.slope * gate)


def _dense(x: jax.Array, own: Params) -> jax.Array:
    y = x @ own["kernel"]
    return y + own["bias"] if "bias" in own else y


def shares(logits_BxLxE: jax.Array, routing: Routing) -> jax.Array:
    """What each expert counts for each token, (B, L, E) float32: 0 for those it does not take."""
    likely = jax.nn.softmax(logits_BxLxE.astype(jnp.float32), axis=-1)
    most, index = jax.lax.top_k(likely, routing.chosen)
    if routing.normalized:
        most /= most.sum(axis=-1, keepdims=True)
    taken = jax.nn.one_hot(index, routing.experts, dtype=jnp.float32)
    return (most[..., None] * taken).sum(axis=-2)
