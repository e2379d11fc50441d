"""Attention in plain XLA, for every machine: blocks of queries under a mask of segments.

Letters in names give shapes: B rows, L positions (M when they are keys), K key-value heads,
G query heads for each of them, H head width.
"""

import jax
import jax.numpy as jnp

# Queries of a block in attention, and how many blocks the compiler is given at most.
QUERY_BLOCK = 128
MOST_BLOCKS = 8


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


def attend_masked(
    q_BxLxKxGxH: jax.Array, k_BxMxKxH: jax.Array, v_BxMxKxH: jax.Array, mask_BxLxM: jax.Array
) -> jax.Array:
    """Grouped-query attention (arXiv 2305.13245), softmax in float32; the shape of `q` comes back.

    A query that may look at no key gives zeros, never NaN, in value and in gradient.
    """
    scale = q_BxLxKxGxH.shape[-1] ** -0.5
    scores = jnp.einsum(
        "blkgh,bmkh->bkglm", q_BxLxKxGxH, k_BxMxKxH, preferred_element_type=jnp.float32
    )
    mask = mask_BxLxM[:, None, None]
    # The lowest finite number and not -inf: a row of -inf would make softmax 0/0.
    scores = jnp.where(mask, scores * scale, jnp.finfo(jnp.float32).min)
    weights = jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0).astype(v_BxMxKxH.dtype)
    return jnp.einsum("bkglm,bmkh->blkgh", weights, v_BxMxKxH)


def attend_causally(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    mask_BxLxL: jax.Array,
    window: int | None = None,
) -> jax.Array:
    """Attention under a mask that is causal: blocks of queries look only at keys up to their end.

    Nor at keys before their `window`, if the mask has one (`segment_mask`). That saves half the
    scores of a long row, or more; the backward pass computes a block's scores again
    instead of keeping all of them, (B, heads, L, L), from the forward pass.
    """
    L = q_BxLxKxGxH.shape[1]
    size = max(QUERY_BLOCK, -(-L // MOST_BLOCKS))
    if L <= size:
        return attend_masked(q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, mask_BxLxL)
    block = jax.checkpoint(attend_masked)
    outputs = []
    for start in range(0, L, size):
        first = 0 if window is None else max(0, start - window + 1)
        queries, keys = slice(start, start + size), slice(first, start + size)
        outputs.append(
            block(
                q_BxLxKxGxH[:, queries],
                k_BxLxKxH[:, keys],
                v_BxLxKxH[:, keys],
                mask_BxLxL[:, queries, keys],
            )
        )
    return jnp.concatenate(outputs, axis=1)


def attend(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    segment_ids_BxL: jax.Array,
    *,
    window: int | None = None,
) -> jax.Array:
    """`attend_causally` under the mask of these segments; partitions over any mesh by itself."""
    mask = segment_mask(segment_ids_BxL, window)
    return attend_causally(q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, mask, window)
