"""Keys and values of the tokens seen so far, so that one more token costs one token's work.

A cache is static, and place s of a sequence holds the token at its position s, whatever the other
sequences hold: so a prompt that is shorter than others needs no padding in front of it, and what
stands behind it is written over as the sequence goes on.
Letters in names give shapes: B sequences, L positions, S places, K key-value heads, G query heads
for each of them, H head width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zsg_jax.models.attention import Mix, attend
from zsg_jax.models.attention.xla import UNSEEN
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.head import soften
from zsg_jax.models.placement import ROWS, TENSOR, constrain


class Cache(NamedTuple):
    """What the layers hand on to one another.

    Attributes:
        k, v: (B, layers, S, K, H), split over sequences and heads as the mesh splits them.
        layer: the number of the layer at work.
    """

    k: jax.Array
    v: jax.Array
    layer: jax.Array | int = 0


def empty(config: ModelConfig, batch: int, length: int, dtype: Any) -> Cache:
    """A cache of `length` places, kept in `dtype`."""
    shape = batch, config.num_layers, length, config.num_kv_heads, config.head_dim
    return Cache(*(constrain(jnp.zeros(shape, dtype), *_SPLIT) for _ in range(2)))


# Sequences come first: each then writes to a place of its own, in the memory as it lies.
_SPLIT = (ROWS, None, None, TENSOR, None)


def joined(parts: Sequence[jax.Array], batch: int, length: int) -> jax.Array:
    """The keys, or values, of several caches one after the other, with room to go on.

    Args:
        parts: (B_i, layers, S_i, K, H) of each.
        batch, length: sequences and places of the whole, at least as many as all and the longest.
    """

    def padded(kept: jax.Array, axis: int, size: int) -> jax.Array:
        widths = [(0, size - kept.shape[axis] if i == axis else 0) for i in range(kept.ndim)]
        return jnp.pad(kept, widths)

    whole = jnp.concatenate([padded(one, 2, length) for one in parts])
    return constrain(padded(whole, 0, batch), *_SPLIT)


def prompt(segment_ids_BxL: jax.Array, kernel: str) -> Mix:
    """Mixes whole prompts, which begin at place 0, and fills the cache with them."""

    def mix(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        window: int | None,
        cache: Cache,
        softcap: float | None = None,
    ) -> tuple[jax.Array, Cache]:
        def put(kept: jax.Array, new: jax.Array) -> jax.Array:
            start = 0, cache.layer, 0, 0, 0
            new = new[:, None].astype(kept.dtype)
            return constrain(jax.lax.dynamic_update_slice(kept, new, start), *_SPLIT)

        segments = segment_ids_BxL
        out = attend(q, k, v, segments, window=window, kernel=kernel, softcap=softcap)
        return out, Cache(put(cache.k, k), put(cache.v, v), cache.layer + 1)

    return mix


def token(positions_B: jax.Array) -> Mix:
    """Mixes one more token of each sequence with those before it, and adds it to the cache."""

    def mix(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        window: int | None,
        cache: Cache,
        softcap: float | None = None,
    ) -> tuple[jax.Array, Cache]:
        @jax.vmap
        def put(kept_LxSxKxH: jax.Array, new_1xKxH: jax.Array, place: jax.Array) -> jax.Array:
            new = new_1xKxH[None].astype(kept_LxSxKxH.dtype)
            return jax.lax.dynamic_update_slice(kept_LxSxKxH, new, (cache.layer, place, 0, 0))

        def own(kept: jax.Array) -> jax.Array:
            return jax.lax.dynamic_index_in_dim(kept, cache.layer, axis=1, keepdims=False)

        keys = constrain(put(cache.k, k, positions_B), *_SPLIT)
        values = constrain(put(cache.v, v, positions_B), *_SPLIT)
        out = _look(q, own(keys), own(values), positions_B, window, softcap)
        return out, Cache(keys, values, cache.layer + 1)

    return mix


def _look(
    q_Bx1xKxGxH: jax.Array,
    k_BxSxKxH: jax.Array,
    v_BxSxKxH: jax.Array,
    positions_B: jax.Array,
    window: int | None,
    softcap: float | None,
) -> jax.Array:
    """Attention of one query a sequence to the places up to its own; softmax in float32."""
    q = q_Bx1xKxGxH[:, 0] * q_Bx1xKxGxH.shape[-1] ** -0.5
    k, v = k_BxSxKxH.astype(q.dtype), v_BxSxKxH.astype(q.dtype)
    scores = jnp.einsum("bkgh,bskh->bkgs", q, k, preferred_element_type=jnp.float32)
    scores = soften(scores, softcap)
    places, last = jnp.arange(k.shape[1]), positions_B[:, None]
    seen = places <= last
    if window is not None:
        seen &= places > last - window
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, UNSEEN), axis=-1)
    out = jnp.einsum(
        "bkgs,bskh->bkgh", weights.astype(q.dtype), v, preferred_element_type=jnp.float32
    )
    return out.astype(q.dtype)[:, None]
