"""How a model is computed: what changes its memory, speed and rounding, and nothing else."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

# What the backward pass finds of a layer's inside: all of it; the results of its matrix products
# with weights, the rest being computed again; or nothing but what went into the layer.
REMAT: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True)
class Compute:
    """How a model is computed.

    Attributes:
        dtype: of activations and of the operands of products, and of what devices send each other
            of a layer's gradients; softmax, norms, sums of products and the loss are float32 in any
            case.
        remat: a key of `REMAT`.
        attention: one of `attention.KINDS`, what its kernel is.
    """

    dtype: Any = jnp.float32
    remat: str = "none"
    attention: str = "xla"
