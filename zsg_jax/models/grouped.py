"""Rows that each go through a few of many layers, computed for those alone (arXiv 2211.15841).

Rows are put in order by the layer they go through, each layer's filled up to whole blocks, so that
a block is one matrix product of known shape. Letters in names give shapes: N rows of width D, K
layers that a row takes out of E, M slots in blocks of b.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zsg_jax.models.placement import Params

# Rows of a block, at least and at most.
SMALLEST, LARGEST = 8, 512
Layer = Callable[[Params, jax.Array], jax.Array]


class Slots(NamedTuple):
    """Where rows lie once they are in order.

    Attributes:
        slot_NxK: int32, that of a row's every choice.
        choice_M: int32, what lies in a slot: row · K + choice, N·K where there is nothing.
        layer_of_block: int32, (M / b,).
    """

    slot_NxK: jax.Array
    choice_M: jax.Array
    layer_of_block: jax.Array


def block_size(choices: int, layers: int) -> int:
    """b, a power of two: so many rows as a layer has when all have as many, within bounds."""
    even = max(1, -(-choices // layers))
    return min(LARGEST, max(SMALLEST, 1 << (even - 1).bit_length()))


def lay_out(index_NxK: jax.Array, layers: int) -> Slots:
    """The slots of rows that take these layers, (N, K) int32 below `layers`."""
    N, K = index_NxK.shape
    b = block_size(N * K, layers)
    chosen = index_NxK.reshape(-1)
    counts_E = jnp.bincount(chosen, length=layers)
    blocks_E = -(-counts_E // b)
    # Of a stable order no row changes place with another of its layer.
    order = jnp.argsort(chosen, stable=True)
    layer = chosen[order]
    place = jnp.arange(N * K) - (jnp.cumsum(counts_E) - counts_E)[layer]
    at = (jnp.cumsum(blocks_E) - blocks_E)[layer] * b + place
    blocks = N * K // b + layers
    slot = jnp.zeros(N * K, jnp.int32).at[order].set(at.astype(jnp.int32))
    choice = jnp.full(blocks * b, N * K, jnp.int32).at[slot].set(jnp.arange(N * K, dtype=jnp.int32))
    of_block = jnp.searchsorted(jnp.cumsum(blocks_E), jnp.arange(blocks), side="right")
    return Slots(slot.reshape(N, K), choice, jnp.minimum(of_block, layers - 1).astype(jnp.int32))


def mixture(
    layer: Layer, params: Params, x_NxD: jax.Array, index_NxK: jax.Array, shares_NxK: jax.Array
) -> jax.Array:
    """The shares' sum of what each row's layers give of it, (N, D) float32.

    Args:
        layer: of its params and rows (b, D), one at a time.
        params: of all layers, each leaf with an axis of E first.
        index_NxK: int32, the layers of a row.
        shares_NxK: float32.
    """
    layers = jax.tree.leaves(params)[0].shape[0]
    slots = lay_out(index_NxK, layers)
    y_MxD = _blocks(layer, params, _dispatch(x_NxD, slots), slots.layer_of_block)
    return _combine(y_MxD, shares_NxK, slots)


# A row's gradient is gathered from its slots: no scatter, whose sums have no order on a GPU.


@jax.custom_vjp
def _dispatch(x_NxD: jax.Array, slots: Slots) -> jax.Array:
    K = slots.slot_NxK.shape[1]
    return x_NxD.at[slots.choice_M // K].get(mode="fill", fill_value=0)


def _dispatch_backward(slots: Slots, change_MxD: jax.Array) -> tuple[jax.Array, Any]:
    sums = change_MxD[slots.slot_NxK].astype(jnp.float32).sum(axis=1)
    return sums.astype(change_MxD.dtype), _no_change(slots)


_dispatch.defvjp(lambda x, slots: (_dispatch(x, slots), slots), _dispatch_backward)


@jax.custom_vjp
def _combine(y_MxD: jax.Array, shares_NxK: jax.Array, slots: Slots) -> jax.Array:
    return (shares_NxK[..., None] * y_MxD[slots.slot_NxK].astype(jnp.float32)).sum(axis=1)


def _combine_backward(kept: Any, change_NxD: jax.Array) -> tuple[jax.Array, jax.Array, Any]:
    y_MxD, shares_NxK, slots = kept
    K = shares_NxK.shape[1]
    of_shares = (change_NxD[:, None] * y_MxD[slots.slot_NxK].astype(jnp.float32)).sum(axis=-1)
    share_M = shares_NxK.reshape(-1).at[slots.choice_M].get(mode="fill", fill_value=0)
    row_MxD = change_NxD.at[slots.choice_M // K].get(mode="fill", fill_value=0)
    return (share_M[:, None] * row_MxD).astype(y_MxD.dtype), of_shares, _no_change(slots)


_combine.defvjp(lambda *given: (_combine(*given), given), _combine_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocks(layer: Layer, params: Params, x_MxD: jax.Array, layer_of_block: jax.Array) -> jax.Array:
    """Each block's rows through its layer, (M, D)."""

    def one(block: Any) -> jax.Array:
        x, index = block
        return layer(_at(params, index), x)

    y = jax.lax.map(one, (_in_blocks(x_MxD, layer_of_block), layer_of_block))
    return y.reshape(-1, y.shape[-1])


def _blocks_forward(layer: Layer, *given: Any) -> tuple[jax.Array, Any]:
    return _blocks(layer, *given), given


def _blocks_backward(layer: Layer, kept: Any, change_MxD: jax.Array) -> tuple[Params, Any, Any]:
    """What is inside a layer is computed again, block by block; sums over blocks are float32."""
    params, x_MxD, layer_of_block = kept

    def add(total: Params, block: Any) -> tuple[Params, jax.Array]:
        x, change, index = block
        of_params, of_x = jax.vjp(layer, _at(params, index), x)[1](change)
        return jax.tree.map(
            lambda sums, more: sums.at[index].add(more.astype(sums.dtype)), total, of_params
        ), of_x

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    parts = (_in_blocks(x_MxD, layer_of_block), _in_blocks(change_MxD, layer_of_block))
    total, of_x = jax.lax.scan(add, zeros, (*parts, layer_of_block))
    of_params = jax.tree.map(lambda sums, leaf: sums.astype(leaf.dtype), total, params)
    return of_params, of_x.reshape(x_MxD.shape), np.zeros(layer_of_block.shape, jax.dtypes.float0)


_blocks.defvjp(_blocks_forward, _blocks_backward)


def _in_blocks(x_MxD: jax.Array, layer_of_block: jax.Array) -> jax.Array:
    return x_MxD.reshape(layer_of_block.shape[0], -1, x_MxD.shape[-1])


def _at(params: Params, index: jax.Array) -> Params:
    """The params of one layer."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, 0, False), params)


def _no_change(slots: Slots) -> Any:
    """The cotangent of integers."""
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0), slots)
