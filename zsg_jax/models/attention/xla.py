"""Attention in plain XLA, for every machine: blocks of queries under a mask of segments.

Letters in names give shapes: B sequences, L positions (M when they are keys), K key-value heads,
G query heads for each of them, H head width.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zsg_jax.models.attention.devices import on_each_device
from zsg_jax.models.head import soften

# Queries of a block in attention, and how many blocks the compiler is given at most. Small blocks
# stay in a CPU's cache.
QUERY_BLOCK = 64
MOST_BLOCKS = 8
# The score of a key that is not seen: finite, for -inf less -inf is no number.
UNSEEN = -1e30


def segment_mask(
    segment_ids_BxL: jax.Array, window: int | None = None, *, causal: bool = True
) -> jax.Array:
    """Which keys a query sees, (B, L, L) bool: those of its own segment up to itself.

    Segment 0 is padding, which sees and is seen by nothing. With a `window`, a query sees no more
    than so many keys, itself included. Without `causal`, it sees as many behind itself too.
    """
    L = segment_ids_BxL.shape[1]
    same = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    near = jnp.tri(L, k=_ahead(L, window, causal), dtype=bool)
    if window is not None:
        near &= ~jnp.tri(L, k=-window, dtype=bool)
    return near & same & (segment_ids_BxL != 0)[:, None, :]


def _ahead(length: int, window: int | None, causal: bool) -> int:
    """How many keys after itself a query sees at most."""
    if causal:
        return 0
    return length if window is None else window - 1


def attend(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    segment_ids_BxL: jax.Array,
    *,
    window: int | None = None,
    softcap: float | None = None,
    causal: bool = True,
    sinks_KxG: jax.Array | None = None,
) -> jax.Array:
    """Attention inside segments, softmax in float32; partitions over any mesh by itself.

    Blocks of queries look only at keys up to their end, and from the beginning of their window on,
    which saves half the scores of a long sequence, or more. The backward pass computes a block's
    scores again instead of keeping all of them, (B, heads, L, L), from the forward pass.
    """
    mask = segment_mask(segment_ids_BxL, window, causal=causal)
    q, k, v = q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH
    return attend_under(q, k, v, mask, window, softcap, causal, sinks_KxG)


def attend_under(
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    mask_BxLxL: jax.Array,
    window: int | None = None,
    softcap: float | None = None,
    causal: bool = True,
    sinks_KxG: jax.Array | None = None,
) -> jax.Array:
    """`attend` under any mask that shows a query no key outside its `window`, nor after itself.

    Without `causal`, it may show keys after it, as far as the window reaches.
    """
    form = _Form(window, softcap, causal)
    out, log_total_BxLxKxG = _attend(q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, mask_BxLxL, form)
    if sinks_KxG is None:
        return out
    # It takes its share of the softmax, and gives nothing for it.
    others_BxLxKxG = jax.nn.sigmoid(log_total_BxLxKxG - sinks_KxG.astype(jnp.float32))
    return (out * others_BxLxKxG[..., None]).astype(out.dtype)


class _Form(NamedTuple):
    """What is known when attention is compiled, as `attend_under` takes it."""

    window: int | None
    softcap: float | None
    causal: bool

    def spans(self, L: int) -> list[tuple[slice, slice]]:
        """The queries of every block of L, and the keys that they look at."""
        size = max(QUERY_BLOCK, -(-L // MOST_BLOCKS))
        more = size + _ahead(L, self.window, self.causal)
        found = []
        for at in range(0, L, size):
            first = max(0, at - (self.window or L) + 1)
            found.append((slice(at, min(L, at + size)), slice(first, min(L, at + more))))
        return found


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(
    q: jax.Array, k: jax.Array, v: jax.Array, mask_BxLxL: jax.Array, form: _Form
) -> tuple[jax.Array, jax.Array]:
    """As `_blocks`."""
    return _forward(q, k, v, mask_BxLxL, form)[0]


# The softmax is kept as the logarithm of each query's sum (arXiv 2205.14135, section 3.1), from
# which the backward pass has the weights in one step, where autodiff would take the largest score,
# the sum and the quotient anew.


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask_BxLxL: jax.Array, form: _Form
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """What `_blocks` gives, and what the backward pass is made from.

    On a CPU one sequence after the other, whose scores stay in its cache: to the bit the same, in a
    third of the time for long sequences of narrow heads.
    """
    at_once = partial(_blocks, form=form)

    def one_by_one(*given: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.lax.map(lambda one: _alone(at_once, one), given)

    out, log_total = jax.lax.platform_dependent(
        q, k, v, mask_BxLxL, cpu=partial(on_each_device, one_by_one), default=at_once
    )
    return (out, log_total), (q, k, v, mask_BxLxL, out, log_total)


def _alone(attend: Callable[..., Any], sequence: Sequence[jax.Array]) -> Any:
    """Calls `attend` with one sequence, whose arrays have no axis of sequences."""
    return jax.tree.map(lambda x: x[0], attend(*(x[None] for x in sequence)))


def _blocks(
    q: jax.Array, k: jax.Array, v: jax.Array, mask_BxLxL: jax.Array, *, form: _Form
) -> tuple[jax.Array, jax.Array]:
    """(B, L, K, G, H) attention, and (B, L, K, G) float32 logarithms of the weights' sums."""
    made = [
        _block(q[:, queries], k[:, keys], v[:, keys], mask_BxLxL[:, queries, keys], form.softcap)
        for queries, keys in form.spans(q.shape[1])
    ]
    out, log_total = (jnp.concatenate(parts, axis=1) for parts in zip(*made, strict=True))
    return out, log_total


def _scores(q: jax.Array, k: jax.Array, mask_BxLxM: jax.Array, softcap: float | None) -> jax.Array:
    """(B, K, G, L, M) float32, of keys that are not seen very low."""
    q *= q.shape[-1] ** -0.5
    scores = jnp.einsum("blkgh,bmkh->bkglm", q, k, preferred_element_type=jnp.float32)
    scores = soften(scores, softcap)
    return jnp.where(mask_BxLxM[:, None, None], scores, UNSEEN)


def _block(
    q: jax.Array, k: jax.Array, v: jax.Array, mask_BxLxM: jax.Array, softcap: float | None
) -> tuple[jax.Array, jax.Array]:
    """`_blocks` of some queries, for the keys that `mask` lets them see."""
    scores = _scores(q, k, mask_BxLxM, softcap)
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum(
        "bkglm,bmkh->bkglh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    out = _of_seeing(jnp.moveaxis(out / total, 3, 1), mask_BxLxM).astype(q.dtype)
    return out, jnp.moveaxis((largest + jnp.log(total))[..., 0], 3, 1)


def _backward(form: _Form, kept: Any, changes: Any) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q, k, v, mask_BxLxL, out, log_total = kept
    change, change_of_log = changes
    L = q.shape[1]
    of_queries: list[jax.Array] = []
    of_keys, of_values = jnp.zeros_like(k), jnp.zeros_like(v)
    for queries, keys in reversed(form.spans(L)):
        of_q, of_k, of_v = _block_backward(
            q[:, queries],
            out[:, queries],
            log_total[:, queries],
            change[:, queries],
            change_of_log[:, queries],
            k[:, keys],
            v[:, keys],
            mask_BxLxL[:, queries, keys],
            form.softcap,
        )
        of_queries.insert(0, of_q)
        around = (0, 0), (keys.start, L - keys.stop), (0, 0), (0, 0)
        of_keys, of_values = of_keys + jnp.pad(of_k, around), of_values + jnp.pad(of_v, around)
    return jnp.concatenate(of_queries, axis=1), of_keys, of_values, None


def _block_backward(
    q: jax.Array,
    out: jax.Array,
    log_total: jax.Array,
    change: jax.Array,
    change_of_log: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask_BxLxM: jax.Array,
    softcap: float | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the change of a block's output is for its queries, and for the keys they look at."""
    change = _of_seeing(change, mask_BxLxM)
    scores = _scores(q, k, mask_BxLxM, softcap)
    weights = jnp.exp(scores - jnp.moveaxis(log_total, 1, 3)[..., None])
    # What a query's output gains by its own weights' change, which sums to nothing.
    own = (change.astype(jnp.float32) * out.astype(jnp.float32)).sum(axis=-1) - change_of_log
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
    return of_q, of_k, of_v


_attend.defvjp(_forward, _backward)


def _of_seeing(x_BxLxKxGxH: jax.Array, mask_BxLxM: jax.Array) -> jax.Array:
    """`x`, with zeros for queries that see no key."""
    return jnp.where(mask_BxLxM.any(axis=-1)[:, :, None, None, None], x_BxLxKxGxH, 0)
