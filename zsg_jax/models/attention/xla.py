"""Attention in plain XLA, for every machine: blocks of queries under a mask of segments.

Letters in names give shapes: B sequences, L positions (M when they are keys), K key-value heads,
G query heads for each of them, H head width.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from zsg_jax.models.head import soften

# Queries of a block in attention, and how many blocks the compiler is given at most. Small blocks
# stay in a CPU's cache.
QUERY_BLOCK = 64
MOST_BLOCKS = 8
# The score of a key that is not seen: finite, for -inf less -inf is no number.
UNSEEN = -1e30


def segment_mask(segment_ids_BxL: jax.Array, window: int | None = None) -> jax.Array:
    """Which keys a query sees, (B, L, L) bool: those of its own segment up to itself.

    Segment 0 is padding, which sees and is seen by nothing. With a `window`, a query sees no more
    than so many keys, itself included.
    """
    L = segment_ids_BxL.shape[1]
    same = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    causal = jnp.tri(L, dtype=bool)
    if window is not None:
        causal &= ~jnp.tri(L, k=-window, dtype=bool)
    return causal & same & (segment_ids_BxL != 0)[:, None, :]


def attend(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    segment_ids_BxL: jax.Array,
    *,
    window: int | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Attention inside segments, softmax in float32; partitions over any mesh by itself.

    Blocks of queries look only at keys up to their end, and from the beginning of their window on,
    which saves half the scores of a long sequence, or more. The backward pass computes a block's
    scores again instead of keeping all of them, (B, heads, L, L), from the forward pass.
    """
    mask = segment_mask(segment_ids_BxL, window)
    return attend_under(q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, mask, window, softcap)


def attend_under(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    mask_BxLxL: jax.Array,
    window: int | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """`attend` under any mask that shows a query no key after it, nor before its `window`."""
    L = q_BxLxKxGxH.shape[1]
    size = max(QUERY_BLOCK, -(-L // MOST_BLOCKS))
    outputs = []
    for start in range(0, L, size):
        first = 0 if window is None else max(0, start - window + 1)
        queries, keys = slice(start, start + size), slice(first, start + size)
        outputs.append(
            _block(
                q_BxLxKxGxH[:, queries],
                k_BxLxKxH[:, keys],
                v_BxLxKxH[:, keys],
                mask_BxLxL[:, queries, keys],
                softcap,
            )
        )
    return jnp.concatenate(outputs, axis=1)


# The softmax is kept as the logarithm of each query's sum (arXiv 2205.14135, section 3.1), from
# which the backward pass has the weights in one step, where autodiff would take the largest score,
# the sum and the quotient anew.


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _block(
    q: jax.Array, k: jax.Array, v: jax.Array, mask_BxLxM: jax.Array, softcap: float | None
) -> jax.Array:
    """Attention of some queries, (B, L, K, G, H), to the keys that `mask` lets them see."""
    return _forward(q, k, v, mask_BxLxM, softcap)[0]


def _scores(q: jax.Array, k: jax.Array, mask_BxLxM: jax.Array, softcap: float | None) -> jax.Array:
    """(B, K, G, L, M) float32, of keys that are not seen very low."""
    q *= q.shape[-1] ** -0.5
    scores = jnp.einsum("blkgh,bmkh->bkglm", q, k, preferred_element_type=jnp.float32)
    scores = soften(scores, softcap)
    return jnp.where(mask_BxLxM[:, None, None], scores, UNSEEN)


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask_BxLxM: jax.Array, softcap: float | None
) -> tuple[jax.Array, Any]:
    scores = _scores(q, k, mask_BxLxM, softcap)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum(
        "bkglm,bmkh->bkglh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    out = _of_seeing(jnp.moveaxis(out / total, 3, 1), mask_BxLxM).astype(q.dtype)
    return out, (q, k, v, mask_BxLxM, out, largest + jnp.log(total))


def _backward(
    softcap: float | None, kept: Any, change: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, mask_BxLxM, out, log_total = kept
    change = _of_seeing(change, mask_BxLxM)
    scores = _scores(q, k, mask_BxLxM, softcap)
    weights = jnp.exp(scores - log_total)
    # What a query's output gains by its own weights' change, which sums to nothing.
    own = (change.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1)
    own = jnp.moveaxis(own, 1, 3)[..., None]
    of_weights = jnp.einsum("blkgh,bmkh->bkglm", change, v, preferred_element_type=jnp.float32)
    of_scores = weights * (of_weights - own) * q.shape[-1] ** -0.5
    if softcap is not None:
        slope = 1 - jnp.square(jnp.where(mask_BxLxM[:, None, None], scores, 0.0) / softcap)
        of_scores *= slope
    of_scores = of_scores.astype(q.dtype)
    of_q = jnp.einsum("bkglm,bmkh->blkgh", of_scores, k)
    of_k = jnp.einsum("bkglm,blkgh->bmkh", of_scores, q)
    of_v = jnp.einsum("bkglm,blkgh->bmkh", weights.astype(v.dtype), change)
    return of_q, of_k, of_v, None


_block.defvjp(_forward, _backward)


def _of_seeing(x_BxLxKxGxH: jax.Array, mask_BxLxM: jax.Array) -> jax.Array:
    """`x`, with zeros for queries that see no key."""
    return jnp.where(mask_BxLxM.any(axis=-1)[:, :, None, None, None], x_BxLxKxGxH, 0)
