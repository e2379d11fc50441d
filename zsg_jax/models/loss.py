"""Next-token cross-entropy: sums and counts, so that means are taken once, at the end.

Logits are made in the forward pass and again in the backward pass, those of a large vocabulary a
part at a time: memory then holds (tokens, part) numbers and never (tokens, vocabulary).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zsg_jax.models.head import Head, soften
from zsg_jax.models.placement import ROWS, TENSOR, constrain, tensor_devices

# Up to so many words of a device are one part; of more, a part has about so many.
WHOLE = 16_384
PART = 8_192


def token_losses(
    x_BxLxD: jax.Array,
    head: Head,
    tokens_BxL: jax.Array,
    vocab_size: int,
    *,
    parts: int | None = None,
) -> jax.Array:
    """The cross-entropy of every next token, (B, L) float32 nats; the last one means nothing.

    Args:
        x_BxLxD: what the head takes; position l predicts token l + 1.
        head: columns of its kernel from `vocab_size` on are padding.
        tokens_BxL: int32, from 0 to vocab_size - 1.
        vocab_size: words that can be predicted.
        parts: how many parts the vocabulary is taken in; None: as its size asks.
    """
    labels_BxL = jnp.roll(tokens_BxL, -1, axis=1)
    return label_losses(x_BxLxD, head, labels_BxL, vocab_size, parts=parts)


def label_losses(
    x_BxLxD: jax.Array,
    head: Head,
    labels_BxL: jax.Array,
    vocab_size: int,
    *,
    parts: int | None = None,
) -> jax.Array:
    """`token_losses` of the token, (B, L) int32, that each position is to predict."""
    if parts is None:
        share = vocab_size / tensor_devices()
        parts = 1 if share <= WHOLE else -(-int(share) // PART)
    return _in_parts(x_BxLxD, head.kernel, labels_BxL, vocab_size, parts, head.softcap)


def answer_losses(losses_BxL: jax.Array, loss_mask_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums the cross-entropy of the masked tokens of each sequence.

    Args:
        losses_BxL: from `token_losses`.
        loss_mask_BxL: bool, true on tokens to be predicted; the first token never is.

    Returns:
        (B,) float32 sums in nats, and (B,) int32 counts of the tokens summed.
    """
    mask = loss_mask_BxL[:, 1:]
    sums = jnp.where(mask, losses_BxL[:, :-1], 0.0).sum(axis=1)
    return sums, mask.sum(axis=1, dtype=jnp.int32)


def segment_losses(
    losses_BxL: jax.Array,
    loss_mask_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
    segments: int,
) -> tuple[jax.Array, jax.Array]:
    """`answer_losses` of every segment of a sequence.

    Args:
        segment_ids_BxL: int32, from 1; 0 is padding.
        segments: S, the largest id. The first token of a segment carries no loss.

    Returns:
        (B, S) float32 sums in nats, and (B, S) int32 counts; column s is segment s + 1.
    """
    # A sum under a mask and not a scatter, whose order of addition is not fixed on every device.
    ids = jnp.arange(1, segments + 1)[:, None]
    own_BxSxL = (segment_ids_BxL[:, None, 1:] == ids) & loss_mask_BxL[:, None, 1:]
    sums = jnp.where(own_BxSxL, losses_BxL[:, None, :-1], 0.0).sum(axis=2)
    return sums, own_BxSxL.sum(axis=2, dtype=jnp.int32)


class _Words(NamedTuple):
    """The head cut into parts: (D, T, parts, C), T being the devices that split the vocabulary.

    A part takes C words of each device's own, so that none moves to another.
    """

    head: jax.Array
    vocab_size: int
    softcap: float | None

    def part(self, index: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """A part's weights, (D, T, C) of `dtype`, and its words' ids, (T, C)."""
        _, T, count, C = self.head.shape
        weights = jax.lax.dynamic_index_in_dim(self.head, index, axis=2, keepdims=False)
        first = jnp.arange(T)[:, None] * (count * C) + index * C
        return weights.astype(dtype), first + jnp.arange(C)

    def logits(self, x_BxLxD: jax.Array, index: jax.Array) -> tuple[jax.Array, ...]:
        """A part's logits, (B, L, T, C) float32, its weights and its words' ids."""
        weights, ids = self.part(index, x_BxLxD.dtype)
        logits = jnp.einsum("bld,dtc->bltc", x_BxLxD, weights, preferred_element_type=jnp.float32)
        logits = constrain(soften(logits, self.softcap), ROWS, None, TENSOR, None)
        return jnp.where(ids < self.vocab_size, logits, -jnp.inf), weights, ids


def _words(
    head_DxV: jax.Array, vocab_size: int, parts: int, softcap: float | None, dtype: Any
) -> _Words:
    D, V = head_DxV.shape
    T = tensor_devices()
    # Brought together once, and not again for every part.
    head = constrain(head_DxV.astype(dtype), None, TENSOR)
    C = -(-V // (T * parts))
    head = jnp.pad(head, ((0, 0), (0, T * parts * C - V)))
    head = constrain(head.reshape(D, T, parts, C), None, TENSOR, None, None)
    return _Words(head, vocab_size, softcap)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _in_parts(
    x_BxLxD: jax.Array,
    head_DxV: jax.Array,
    labels_BxL: jax.Array,
    vocab_size: int,
    parts: int,
    softcap: float | None,
) -> jax.Array:
    return _forward(x_BxLxD, head_DxV, labels_BxL, vocab_size, parts, softcap)[0]


def _forward(
    x_BxLxD: jax.Array,
    head_DxV: jax.Array,
    labels_BxL: jax.Array,
    vocab_size: int,
    parts: int,
    softcap: float | None,
) -> tuple[jax.Array, Any]:
    words = _words(head_DxV, vocab_size, parts, softcap, x_BxLxD.dtype)

    def add(carry: Any, index: jax.Array) -> tuple[Any, None]:
        largest, total, picked = carry
        logits, _, ids = words.logits(x_BxLxD, index)
        now = jnp.maximum(largest, logits.max((2, 3)))
        total = total * jnp.exp(largest - now)
        total += jnp.exp(logits - now[..., None, None]).sum((2, 3))
        hit = ids == labels_BxL[..., None, None]
        return (now, total, picked + jnp.where(hit, logits, 0.0).sum((2, 3))), None

    zeros = jnp.zeros(labels_BxL.shape, jnp.float32)
    lowest = jnp.full_like(zeros, jnp.finfo(jnp.float32).min)
    (largest, total, picked), _ = jax.lax.scan(add, (lowest, zeros, zeros), jnp.arange(parts))
    log_total = largest + jnp.log(total)
    return log_total - picked, (x_BxLxD, head_DxV, labels_BxL, log_total)


def _backward(
    vocab_size: int, parts: int, softcap: float | None, kept: Any, change_BxL: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    x_BxLxD, head_DxV, labels_BxL, log_total = kept
    words = _words(head_DxV, vocab_size, parts, softcap, x_BxLxD.dtype)

    def add(carry: tuple[jax.Array, jax.Array], index: jax.Array) -> tuple[Any, None]:
        of_x, of_head = carry
        logits, weights, ids = words.logits(x_BxLxD, index)
        chances = jnp.exp(logits - log_total[..., None, None])
        hit = ids == labels_BxL[..., None, None]
        error = (chances - hit) * change_BxL[..., None, None]
        if softcap is not None:
            error *= jnp.where(jnp.isfinite(logits), 1 - jnp.square(logits / softcap), 0.0)
        error = error.astype(x_BxLxD.dtype)
        of_x += jnp.einsum("bltc,dtc->bld", error, weights, preferred_element_type=jnp.float32)
        part = jnp.einsum("bld,bltc->dtc", x_BxLxD, error, preferred_element_type=jnp.float32)
        # A transpose after it, of a tied table, is not to be folded into the product: XLA's CPU
        # compiler has no such product of bfloat16.
        part = jax.lax.optimization_barrier(constrain(part, None, TENSOR, None))
        part = part.astype(of_head.dtype)
        return (of_x, jax.lax.dynamic_update_index_in_dim(of_head, part, index, axis=2)), None

    zeros = (
        jnp.zeros(x_BxLxD.shape, jnp.float32),
        constrain(jnp.zeros(words.head.shape, head_DxV.dtype), None, TENSOR, None, None),
    )
    (of_x, of_head), _ = jax.lax.scan(add, zeros, jnp.arange(parts))
    of_head = of_head.reshape(head_DxV.shape[0], -1)[:, : head_DxV.shape[1]]
    return of_x.astype(x_BxLxD.dtype), of_head, None


_in_parts.defvjp(_forward, _backward)
