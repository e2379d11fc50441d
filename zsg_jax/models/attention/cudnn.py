"""Attention on NVIDIA's GPUs, by cuDNN's flash attention, which never holds all scores at once.

The kernel knows causal masks and lengths but no segment ids: given no more, it lets an instance
see those before it in its sequence. So segments reach it as a mask, (B, 1, L, L) numbers.

Letters as in `xla.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as fused

from zsg_jax.models.attention.devices import on_each_device, without_padding
from zsg_jax.models.attention.xla import segment_mask


def refusal(*, head_dim: int, length: int, dtype: Any) -> str | None:
    """Why the card at hand does not compute such attention this way, or None if it does."""
    if fused.cuda_versions is None:
        return "cuDNN is not installed"
    if dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN's kernel computes bfloat16 and float16, not {jnp.dtype(dtype).name}"
    if not fused.check_compute_capability("8.0"):
        return "cuDNN's kernel needs a card of Ampere or later"
    widest = 256 if fused.check_compute_capability("9.0") else 128
    if head_dim % 8 or head_dim > widest:
        return f"cuDNN's kernel takes heads of 8, 16, … {widest} numbers, not {head_dim}"
    if length % 2:
        return f"cuDNN's kernel takes a mask for sequences of even length, not {length}"
    return None


def attend(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    segment_ids_BxL: jax.Array,
    *,
    window: int | None = None,
) -> jax.Array:
    """Causal attention inside segments; the shape of `q` comes back, zeros at padding.

    Args:
        q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH: bfloat16 or float16.
        segment_ids_BxL: int32; a segment lies in one piece.
        window: keys that a query sees at most, itself included.
    """

    def on_one(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        B, L, K, G, H = q.shape
        q = q.reshape(B, L, K * G, H)
        # Ids from 1, so that padding sees itself: a row of the mask is never empty. The kernel has
        # no windows beside a mask, so the mask has them.
        mask = segment_mask(segment_ids + 1, window)[:, None]
        out = jax.nn.dot_product_attention(
            q, k, v, mask=mask, is_causal=True, implementation="cudnn"
        )
        return out.reshape(B, L, K, G, H)

    out = on_each_device(on_one, q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, segment_ids_BxL)
    return without_padding(out, segment_ids_BxL)
