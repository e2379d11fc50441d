"""What makes logits of hidden states."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Head:
    """The head of a language model.

    Attributes:
        kernel: (D, V + vocab_padding).
        softcap: logits are softcap · tanh(logits / softcap) (arXiv 2408.00118); None: as they are.
    """

    kernel: jax.Array
    softcap: float | None = field(default=None, metadata={"static": True})


def soften(x: jax.Array, softcap: float | None) -> jax.Array:
    """Logits or scores of attention that stay within `softcap`."""
    return x if softcap is None else softcap * jnp.tanh(x / softcap)
