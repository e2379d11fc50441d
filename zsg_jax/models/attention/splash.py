"""Attention on TPUs, by JAX's Pallas kernel "splash", which never holds all scores at once.

It skips blocks of scores that are above the diagonal or before the window; segments are compared
inside (jax.experimental.pallas.ops.tpu.splash_attention). Letters as in `xla.py`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
)
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from zsg_jax.models.attention.devices import on_each_device, without_padding

# The kernel takes keys by so many, and is quickest with blocks of some hundred positions.
LANES = 128
MOST_IN_BLOCK = 512


def refusal(*, length: int, dtype: Any) -> str | None:
    """Why the kernel does not compute such attention, or None if it does; any head will do."""
    if length < LANES:
        return f"sequences of {length} positions are shorter than a block of {LANES}"
    if dtype not in (jnp.bfloat16, jnp.float32):
        return f"splash computes bfloat16 and float32, not {jnp.dtype(dtype).name}"
    return None


def block_size(length: int) -> int:
    """The largest block, a multiple of LANES, that divides a sequence's `length`."""
    return max(n for n in range(LANES, MOST_IN_BLOCK + 1, LANES) if length % n == 0)


def attend(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    segment_ids_BxL: jax.Array,
    *,
    window: int | None = None,
    softcap: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Causal attention inside segments; the shape of `q` comes back, zeros at padding.

    Rows are lengthened to a multiple of LANES by padding. `interpret` runs the kernel on a CPU,
    slowly.
    """

    def on_one(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        _, L, _, G, H = q.shape
        more = -L % LANES
        segment_ids = jnp.pad(segment_ids, ((0, 0), (0, more)))
        # The kernel scales no scores; the product is rounded once, to the queries' precision.
        q = (q.astype(jnp.float32) * H**-0.5).astype(q.dtype)
        q = jnp.pad(jnp.transpose(q, (0, 2, 3, 1, 4)), ((0, 0),) * 3 + ((0, more), (0, 0)))
        k, v = (
            jnp.pad(jnp.transpose(x, (0, 2, 1, 3)), ((0, 0),) * 2 + ((0, more), (0, 0)))
            for x in (k, v)
        )
        heads = jax.vmap(_kernel(L + more, G, window, softcap, interpret), in_axes=(0, 0, 0, None))
        ids = kernels.SegmentIds(segment_ids, segment_ids)
        out = jax.vmap(heads)(q, k, v, ids)
        return jnp.transpose(out, (0, 3, 1, 2, 4))[:, :L]

    # Padding sees padding in the kernel.
    out = on_each_device(on_one, q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, segment_ids_BxL)
    return without_padding(out, segment_ids_BxL)


def _kernel(
    length: int, heads: int, window: int | None, softcap: float | None, interpret: bool
) -> Callable[..., jax.Array]:
    """The kernel for all query heads, (G, L, H), of one key-value head, (L, H)."""
    shape = (length, length)
    mask = (
        masks.CausalMask(shape)
        if window is None
        else masks.LocalMask(shape, (window - 1, 0), offset=0)
    )
    n = block_size(length)
    kernel: Callable[..., Any] = kernels.make_splash_mqa_single_device(
        masks.MultiHeadMask([mask] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=n,
            block_kv=n,
            block_q_dkv=n,
            block_kv_dkv=n,
            block_q_dq=n,
            block_kv_dq=n,
        ),
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    return kernel
