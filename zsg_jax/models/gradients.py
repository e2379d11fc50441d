"""Gradients of single examples: of each one's own loss, with respect to chosen parameters."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from zsg_jax.models.families import ModelConfig
from zsg_jax.models.lora import LoRA, split
from zsg_jax.models.loss import answer_losses, token_losses
from zsg_jax.models.model import abstract, hidden
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import check

# Arrays by their names, as in "layers/mlp/up/kernel".
Named = dict[str, jax.Array]


def select(params: Params, pattern: str, *, adapted: bool, told: str) -> tuple[Named, Named]:
    """The parameters that gradients are taken by, and the others.

    Args:
        params: nested dict of arrays.
        pattern: of names, as a shell has them for files; "" for all adapters, or for all kernels of
            the layers where there are none.
        adapted: whether there are adapters, which alone can be chosen then.
        told: what messages call the model.

    Raises:
        UserError: none has such a name.
    """
    named = traverse_util.flatten_dict(params, sep="/")
    trained = traverse_util.flatten_dict(split(params)[0], sep="/") if adapted else named
    wanted = pattern or ("*" if adapted else "layers/*kernel")
    chosen = {name: leaf for name, leaf in trained.items() if fnmatchcase(name, wanted)}
    check(
        bool(chosen),
        f"{told}: weights={wanted} is the name of no parameter that was trained; there are "
        f"{', '.join(sorted(trained))}, and * stands for any letters",
    )
    return chosen, {name: leaf for name, leaf in named.items() if name not in chosen}


def example_gradients(
    model: ModelConfig, lora: LoRA | None = None
) -> Callable[[Named, Named, jax.Array, jax.Array, jax.Array], Named]:
    """What computes gradients, in float32, with dropout off.

    An example's loss is the mean cross-entropy of its answer tokens, in nats.

    Returns:
        A function of the parameters chosen and the others, as `select` parts them; of tokens (B, L)
        int32; of their lengths (B,) int32; and of a loss mask (B, L) bool. It gives the gradient of
        each example's loss, (B, …) by parameter; of one without an answer token zeros.
    """
    graphdef, _ = abstract(model, lora=lora)

    def loss(
        chosen: Named, others: Named, tokens_L: jax.Array, length: jax.Array, mask_L: jax.Array
    ) -> jax.Array:
        params = traverse_util.unflatten_dict(others | chosen, sep="/")
        places_L = jnp.arange(len(tokens_L))
        segments_1xL = (places_L < length).astype(jnp.int32)[None]
        x, head = hidden(graphdef, params, tokens_L[None], places_L[None], segments_1xL)
        losses = token_losses(x, head, tokens_L[None], model.vocab_size)
        sums, counts = answer_losses(losses, mask_L[None])
        return sums[0] / jnp.maximum(counts[0], 1)

    def gradients(
        chosen: Named,
        others: Named,
        tokens_BxL: jax.Array,
        lengths_B: jax.Array,
        mask_BxL: jax.Array,
    ) -> Named:
        def one(example: Any) -> Named:
            return jax.grad(loss)(chosen, others, *example)

        with jax.default_matmul_precision("highest"):
            # Tokens are grouped by their experts, which only a whole sequence at a time can be.
            each = jax.lax.map if getattr(model, "routing", None) else _together
            return each(one, (tokens_BxL, lengths_B, mask_BxL))

    return gradients


def _together(one: Callable[[Any], Named], examples: Any) -> Named:
    return jax.vmap(one)(examples)


def flat(gradients: Named) -> jax.Array:
    """Gradients (B, …) by parameter as one row an example, (B, P), in the order of the names."""
    return jnp.concatenate(
        [gradients[name].reshape(len(gradients[name]), -1) for name in sorted(gradients)], axis=1
    )
