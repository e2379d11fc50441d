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
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits_BxLxV[:, :-1], tokens_BxL[:, 1:]
    )
    mask = loss_mask_BxL[:, 1:]
    return jnp.where(mask, losses, 0.0).sum(axis=1), mask.sum(axis=1, dtype=jnp.int32)
