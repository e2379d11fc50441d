"""Attention on NVIDIA's GPUs, by cuDNN's flash attention, which never holds all scores at once.

The kernel knows causal masks and lengths but no segment ids: given no more, it lets an instance
see those before it in its row. So segments reach it in one of two ways, both exact:

- as a mask, (B, 1, L, L) numbers, on every card that has the kernel;
- as the places where they start (github.com/jax-ml/jax/pull/25812), from Hopper on. This skips
  what lies between segments, but the kernel keeps a statistic of shape (B * segments, heads, L)
  for as many segments as a row may have, so it pays only where these are known to be few.

Letters as in `xla.py`; N heads, R segments of a row.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as fused

from zsg_jax.models.attention.parts import on_each_device, without_padding
from zsg_jax.models.attention.xla import segment_mask

# From this version on cuDNN takes offsets, windows among them included.
PACKING_VERSION = 90600


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
        return f"cuDNN's kernel takes a mask for rows of even length, not {length}"
    return None


def packs(*, length: int, heads: int, most_segments: int) -> bool:
    """Whether segments are given by where they start: where that needs no more memory than a mask.

    That is (segments + 1) * heads * length float32 a row, against length² numbers of two bytes and
    as many for their gradient, which the kernel computes unasked.
    """
    return (
        (most_segments + 1) * heads <= length
        and fused.check_compute_capability("9.0")
        and fused.check_cudnn_version() >= PACKING_VERSION
    )


def places(segment_ids_BxL: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the runs of equal ids begin, how long they are, and how many a row has.

    Padding is a run like others, so that the kernel leaves no number unwritten.

    Args:
        segment_ids_BxL: int32.
        most: runs of a row at most.

    Returns:
        (B, most + 1) int32 starts and (B, most) int32 lengths, -1 after the last run, as the
        kernel asks; (B,) int32 counts, which are wrong nowhere, also above `most`.
    """
    L = segment_ids_BxL.shape[1]
    differs = segment_ids_BxL[:, 1:] != segment_ids_BxL[:, :-1]
    new = jnp.pad(differs, ((0, 0), (1, 0)), constant_values=True)
    starts = jax.vmap(lambda row: jnp.flatnonzero(row, size=most + 1, fill_value=L))(new)
    lengths = jnp.diff(starts, axis=1)
    runs = jnp.arange(most + 1) < new.sum(axis=1, keepdims=True)
    starts = jnp.where(runs, starts, -1).at[:, most].set(-1)
    lengths = jnp.where(runs[:, :most], lengths, -1)
    return starts.astype(jnp.int32), lengths.astype(jnp.int32), new.sum(axis=1, dtype=jnp.int32)


def attend(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    segment_ids_BxL: jax.Array,
    *,
    window: int | None = None,
    most_segments: int | None = None,
) -> jax.Array:
    """Causal attention inside segments; the shape of `q` comes back, zeros at padding.

    Args:
        q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH: bfloat16 or float16.
        segment_ids_BxL: int32; a segment lies in one piece.
        window: keys that a query sees at most, itself included.
        most_segments: how many a row may have besides padding in one piece, if that is known; a
            row that has more comes back as NaN, where the kernel could not have been right.
    """

    def on_one(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array) -> jax.Array:
        B, L, K, G, H = q.shape
        q = q.reshape(B, L, K * G, H)
        if most_segments and packs(length=L, heads=K * G, most_segments=most_segments):
            out = _by_places(q, k, v, segment_ids, window, most_segments + 1)
        else:
            # Ids from 1, so that padding sees itself: a row of the mask is never empty. The
            # kernel has no windows beside a mask, so the mask has them.
            mask = segment_mask(segment_ids + 1, window)[:, None]
            out = jax.nn.dot_product_attention(
                q, k, v, mask=mask, is_causal=True, implementation="cudnn"
            )
        return out.reshape(B, L, K, G, H)

    out = on_each_device(on_one, q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, segment_ids_BxL)
    return without_padding(out, segment_ids_BxL)


def _by_places(
    q_BxLxNxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    segment_ids_BxL: jax.Array,
    window: int | None,
    most: int,
) -> jax.Array:
    starts, lengths, counts = places(segment_ids_BxL, most)
    # JAX 0.10 places keys by the width of all queries (github.com/jax-ml/jax/pull/39521), which
    # is wrong unless there are as many heads of both.
    groups = q_BxLxNxH.shape[2] // k_BxLxKxH.shape[2]
    k_BxLxNxH, v_BxLxNxH = (jnp.repeat(x, groups, axis=2) for x in (k_BxLxKxH, v_BxLxKxH))
    out = fused.dot_product_attention(
        q_BxLxNxH,
        k_BxLxNxH,
        v_BxLxNxH,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=starts,
        kv_offsets=starts,
        scale=q_BxLxNxH.shape[-1] ** -0.5,
        mask_type=fused.MaskType.PADDING_CAUSAL,
        sliding_window_length=window,
    )
    return jnp.where((counts <= most)[:, None, None, None], out, jnp.nan)
