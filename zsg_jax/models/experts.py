"""Experts in the place of a feed-forward layer, of which a token takes a few (arXiv 2101.03961).

A token is computed by the experts that it takes and by no others, and none is ever dropped,
whatever shares its batch. Letters in names give shapes: B sequences, L positions, D width, E
experts, of which a token takes K.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from zsg_jax.models.checks import check_fields
from zsg_jax.models.grouped import Layer, mixture
from zsg_jax.models.layers import ACTIVATIONS, linear, product
from zsg_jax.models.placement import ROWS, TENSOR, Compute, Params, dividing
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
        index_BxLxK, shares_BxLxK = choose(self.router(x_BxLxD), self.routing)
        dtype = x_BxLxD.dtype
        parts = nnx.to_pure_dict(nnx.state(self.experts))
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), parts)
        # Added after sums over the devices that split the experts' width.
        bias_ExD = params["down"].pop("bias", None)
        total = _on_each_device(
            partial(_expert, self.routing, self.activation),
            params,
            x_BxLxD,
            index_BxLxK,
            shares_BxLxK,
        )
        if bias_ExD is not None:
            one_hot = jax.nn.one_hot(index_BxLxK, self.routing.experts, dtype=jnp.float32)
            shares_BxLxE = (shares_BxLxK[..., None] * one_hot).sum(axis=-2)
            total += product(shares_BxLxE, bias_ExD.astype(jnp.float32))
        return total.astype(dtype)


def _expert(routing: Routing, activation: str, params: Params, x: jax.Array) -> jax.Array:
    """What an expert gives, without its last bias, of rows (…, D)."""
    gate, up = _dense(x, params["gate"]), _dense(x, params["up"])
    if routing.limit is None:
        inner = ACTIVATIONS[activation](gate) * up
    else:
        gate, up = jnp.minimum(gate, routing.limit), jnp.clip(up, -routing.limit, routing.limit)
        inner = (up + 1) * gate * jax.nn.sigmoid(routing.slope * gate)
    return _dense(inner, params["down"])


def _dense(x: jax.Array, own: Params) -> jax.Array:
    y = x @ own["kernel"]
    return y + own["bias"] if "bias" in own else y


def _on_each_device(
    expert: Layer, params: Params, x_BxLxD: jax.Array, index: jax.Array, shares: jax.Array
) -> jax.Array:
    """The experts' sum for each token, (B, L, D) float32; tokens stay on their device.

    Of an expert whose width is split, each device computes its part, and the parts are added up.
    """

    def alone(params: Params, x: jax.Array, index: jax.Array, shares: jax.Array) -> jax.Array:
        flat = (y.reshape(-1, y.shape[-1]) for y in (x, index, shares))
        return mixture(expert, params, *flat).reshape(x.shape)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return alone(params, x_BxLxD, index, shares)
    width = dividing(params["up"]["kernel"].shape[-1], (TENSOR,), mesh)
    rows = PartitionSpec(dividing(x_BxLxD.shape[0], ROWS, mesh))
    inner = {"kernel": PartitionSpec(None, None, width), "bias": PartitionSpec(None, width)}
    split = {"gate": inner, "up": inner, "down": {"kernel": PartitionSpec(None, width)}}

    def parts(*given: Any) -> jax.Array:
        total = alone(*given)
        return jax.lax.psum(total, width) if width else total

    return jax.shard_map(
        parts,
        in_specs=(
            {k: {n: split[k][n] for n in own} for k, own in params.items()},
            rows,
            rows,
            rows,
        ),
        out_specs=rows,
        check_vma=False,
    )(params, x_BxLxD, index, shares)


def choose(logits_BxLxE: jax.Array, routing: Routing) -> tuple[jax.Array, jax.Array]:
    """The experts that each token takes, (B, L, K) int32, and what each counts, float32."""
    likely = jax.nn.softmax(logits_BxLxE.astype(jnp.float32), axis=-1)
    shares, index = jax.lax.top_k(likely, routing.chosen)
    if routing.normalized:
        shares /= shares.sum(axis=-1, keepdims=True)
    return index, shares
