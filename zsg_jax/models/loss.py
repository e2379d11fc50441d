"""Next-token cross-entropy: sums and counts, so that means are taken once, at the end."""

import jax
import jax.numpy as jnp
import optax


def answer_losses(
    logits_BxLxV: jax.Array, tokens_BxL: jax.Array, loss_mask_BxL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums the cross-entropy of the masked tokens of each row.

    Args:
        logits_BxLxV: float32; position l predicts token l + 1.
        tokens_BxL: int32.
        loss_mask_BxL: bool, true on tokens to be predicted; the first token never is.

    Returns:
        (B,) float32 sums in nats, and (B,) int32 counts of the tokens summed.
    """
    losses, mask = _token_losses(logits_BxLxV, tokens_BxL, loss_mask_BxL)
    return jnp.where(mask, losses, 0.0).sum(axis=1), mask.sum(axis=1, dtype=jnp.int32)


def segment_losses(
    logits_BxLxV: jax.Array,
    tokens_BxL: jax.Array,
    loss_mask_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
    segments: int,
) -> tuple[jax.Array, jax.Array]:
    """`answer_losses` of every segment of a row.

    Args:
        segment_ids_BxL: int32, from 1; 0 is padding.
        segments: S, the largest id. The first token of a segment carries no loss.

    Returns:
        (B, S) float32 sums in nats, and (B, S) int32 counts; column s is segment s + 1.
    """
    losses, mask = _token_losses(logits_BxLxV, tokens_BxL, loss_mask_BxL)
    # A sum under a mask and not a scatter, whose order of addition is not fixed on every device.
    ids = jnp.arange(1, segments + 1)[:, None]
    mine_BxSxL = (segment_ids_BxL[:, None, 1:] == ids) & mask[:, None]
    sums = jnp.where(mine_BxSxL, losses[:, None], 0.0).sum(axis=2)
    return sums, mine_BxSxL.sum(axis=2, dtype=jnp.int32)


def _token_losses(
    logits_BxLxV: jax.Array, tokens_BxL: jax.Array, loss_mask_BxL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The cross-entropy of tokens 1 to L-1, and which of them count, both (B, L-1)."""
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits_BxLxV[:, :-1], tokens_BxL[:, 1:]
    )
    return losses, loss_mask_BxL[:, 1:]
