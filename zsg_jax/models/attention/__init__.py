"""Causal attention inside segments, which the language models share, by the kernel that fits."""

from collections.abc import Callable
from typing import Any

import jax

from zsg_jax.models.attention import cudnn, splash, xla

__all__ = ["AUTO", "KERNELS", "Mix", "attend", "choose", "within"]

KERNELS: dict[str, Callable[..., jax.Array]] = {
    "xla": xla.attend,
    "cudnn": cudnn.attend,
    "splash": splash.attend,
}
# What a layer mixes its tokens by: (queries, keys, values, window, memory) -> (what comes out, in
# the shape of the queries, memory); the memory is what the layers hand on to one another. A model
# whose scores are soft-capped gives `softcap` too, one that sees both ways `causal=False`, one with
# sinks `sinks_KxG`.
Mix = Callable[..., tuple[jax.Array, Any]]
# What `choose` picks for the machine.
AUTO = "auto"


def choose(
    platform: str,
    *,
    head_dim: int,
    length: int,
    dtype: Any,
    softcap: float | None = None,
    sinks: bool = False,
) -> tuple[str, str]:
    """Which of `KERNELS` to compute attention by, and why.

    Args:
        platform: that of the devices: "gpu" for those at hand, "tpu" or another.
        head_dim, length: sizes of a head and of the longest sequence.
        dtype: of queries, keys and values.
        softcap: that of the scores, if any.
        sinks: whether there are any.

    Returns:
        The kernel, and a sentence for the log. A window decides nothing: all have it.
    """
    if sinks:
        return "xla", "other kernels have no sinks"
    if platform in ("gpu", "cuda"):
        against = cudnn.refusal(head_dim=head_dim, length=length, dtype=dtype)
        if softcap is not None:
            against = "cuDNN's kernel does not soft-cap scores"
        return ("xla", against) if against else ("cudnn", "cuDNN's flash attention fits")
    if platform == "tpu":
        against = splash.refusal(length=length, dtype=dtype)
        return ("xla", against) if against else ("splash", "JAX's TPU kernel fits")
    return "xla", f"there is no kernel for {platform}"


def attend(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    segment_ids_BxL: jax.Array,
    *,
    window: int | None = None,
    kernel: str = "xla",
    softcap: float | None = None,
    causal: bool = True,
    sinks_KxG: jax.Array | None = None,
) -> jax.Array:
    """Grouped-query attention (arXiv 2305.13245), softmax in float32; the shape of `q` comes back.

    A query sees the keys of its own segment up to itself. Under a mesh (`jax.set_mesh`) every
    device computes its own sequences, split over "data" and "fsdp", and heads, split over "tensor".

    Args:
        q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH: of one dtype; see `choose` for what a kernel takes.
        segment_ids_BxL: int32; a segment lies in one piece. 0 is padding, which sees and is seen
            by nothing: zeros, never NaN, in value and in gradient.
        window: keys that a query sees at most, itself included (arXiv 2310.06825); None for all.
        kernel: one of `KERNELS`, as `choose` gives it.
        softcap: scores are softcap · tanh(scores / softcap); cuDNN's kernel does not compute it.
        causal: whether a query sees no key after itself; without, the window reaches as far to
            either side. XLA alone computes that.
        sinks_KxG: of each head the score of a place that holds zeros, which takes a share of the
            softmax and which every query sees; None for none. XLA alone computes that.
    """
    if window is not None and window >= q_BxLxKxGxH.shape[1]:
        window = None
    more: dict[str, Any] = {} if softcap is None else {"softcap": softcap}
    if not causal:
        more["causal"] = False
    if sinks_KxG is not None:
        more["sinks_KxG"] = sinks_KxG
    return KERNELS[kernel](
        q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, segment_ids_BxL, window=window, **more
    )


def within(segment_ids_BxL: jax.Array, kernel: str) -> Mix:
    """Mixes by `attend` inside these segments; the memory is handed on as it is."""

    def mix(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        window: int | None,
        memory: Any,
        **more: Any,
    ) -> tuple[jax.Array, Any]:
        out = attend(q, k, v, segment_ids_BxL, window=window, kernel=kernel, **more)
        return out, memory

    return mix
