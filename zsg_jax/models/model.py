"""A language model of any family as functions of its config and its parameters.

A config's `build(compute, rngs)` makes the module that computes it, which has `hidden`, `head`,
`layers` and `config`.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models.attention import Mix, within
from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.head import Head, soften
from zsg_jax.models.layers import Unstacked, product, unstack
from zsg_jax.models.lora import LoRA, attach
from zsg_jax.models.placement import Compute, Params


def abstract(
    config: ModelConfig,
    compute: Compute | None = None,
    lora: LoRA | None = None,
    *,
    training: bool = False,
) -> tuple[nnx.GraphDef, Params]:
    """The model's definition and the shapes of its parameters; takes no memory at any size.

    With `lora` its layers have adapters, and with `training` their dropout is on.

    Returns:
        The graph definition that `apply` takes, and a nested dict of `jax.ShapeDtypeStruct`,
        float32, such as `params["layers"]["attention"]["q"]["kernel"]` of all layers.
    """
    graphdef, shapes = _abstract(config, compute or Compute(), lora, training)
    return graphdef, jax.tree.map(lambda leaf: leaf, shapes)  # the dicts are the caller's


@lru_cache
def _abstract(
    config: ModelConfig, compute: Compute, lora: LoRA | None, training: bool
) -> tuple[nnx.GraphDef, Params]:
    def make() -> nnx.Module:
        return _make(config, compute, nnx.Rngs(0), lora, training)

    graphdef, state = nnx.split(nnx.eval_shape(make))
    return graphdef, nnx.to_pure_dict(state)


def initialize(config: ModelConfig, key: jax.Array, lora: LoRA | None = None) -> Params:
    """Fresh float32 parameters, as the family begins, with fresh adapters. May be jitted."""
    made = _make(config, Compute(), nnx.Rngs(key), lora, training=False)
    return nnx.to_pure_dict(nnx.state(made))


def _make(
    config: ModelConfig, compute: Compute, rngs: nnx.Rngs, lora: LoRA | None, training: bool
) -> nnx.Module:
    made = config.build(compute, rngs)
    if lora is not None:
        attach(made, lora, rngs, training=training)
    return made


def apply(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    positions_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
) -> jax.Array:
    """The model on a nested dict of parameters: logits of the next token, (B, L, V) float32.

    Args:
        tokens_BxL: int32, from 0 to V-1.
        positions_BxL: int32, each token's position in its own segment, from 0.
        segment_ids_BxL: int32; a token sees the earlier ones of its sequence that carry the same
            number, those of its layer's window alone where there is one. 0 is padding, which sees
            and is seen by nothing.
    """
    model, mix = _opened(graphdef, params, segment_ids_BxL)
    x_BxLxD, _ = model.hidden(tokens_BxL, positions_BxL, mix)
    return logits_of(model.config.vocab_size, x_BxLxD, model.head())


def logits_of(vocab_size: int, x: jax.Array, head: Head) -> jax.Array:
    """Logits of the words to predict, (…, vocab_size) float32, of what `hidden` gives."""
    # Operands in the dtype of `x`, sums in float32: fast without rounding the logits.
    kernel = head.kernel[:, :vocab_size].astype(x.dtype)
    logits = product(x, kernel, preferred_element_type=jnp.float32)
    return soften(logits, head.softcap)


def hidden(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    positions_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
) -> tuple[jax.Array, Head]:
    """What the logits of `apply` are the product of, for a loss that never holds all of them.

    Returns:
        (B, L, D) in the dtype of the computation, and the head, in that of the parameters.
    """
    model, mix = _opened(graphdef, params, segment_ids_BxL)
    return model.hidden(tokens_BxL, positions_BxL, mix)[0], model.head()


def states(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    positions_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
) -> jax.Array:
    """As `hidden`, before the last norm: what the last layer gives, (B, L, D)."""
    model, mix = _opened(graphdef, params, segment_ids_BxL)
    return model.stream(tokens_BxL, positions_BxL, mix)[0]


def _opened(graphdef: nnx.GraphDef, params: Params, segment_ids_BxL: jax.Array) -> tuple[Any, Mix]:
    """The module that computes, and what mixes the tokens of a segment."""
    model = nnx.merge(graphdef, params)
    return model, within(segment_ids_BxL, model.compute.attention)


def first_layers(config: ModelConfig, params: Params, count: int) -> tuple[ModelConfig, Params]:
    """A model of the first `count` layers, without the head and the padding of the vocabulary.

    Args:
        params: of `config`, all layers of one array each.
        count: 1 to `config.num_layers`.

    Returns:
        A config whose head is the table of embeddings, and its parameters.
    """
    kept = {name: own for name, own in params.items() if name != "lm_head"}
    kept["layers"] = jax.tree.map(lambda leaf: leaf[:count], params["layers"])
    words = params["embed"]["embedding"][: config.vocab_size]
    kept["embed"] = {**params["embed"], "embedding": words}
    changes: dict[str, Any] = {"num_layers": count, "vocab_padding": 0}
    if isinstance(config, DecoderConfig):
        changes["tie_embeddings"] = True
    return replace(config, **changes), kept


def hidden_with(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    positions_BxL: jax.Array,
    mix: Callable[[Any], Mix],
    memory: Any,
    layers: Unstacked | None = None,
) -> tuple[jax.Array, Head, Any]:
    """As `hidden`, its layers mixing tokens by `mix` of their kernel; the memory comes back too.

    `layers`, as `unstacked` gives them, are those of `params`.
    """
    model = nnx.merge(graphdef, params)
    mixing = mix(model.compute.attention)
    x_BxLxD, memory = model.hidden(tokens_BxL, positions_BxL, mixing, memory, layers)
    return x_BxLxD, model.head(), memory


def unstacked(graphdef: nnx.GraphDef, params: Params) -> Unstacked:
    """The layers of `params` one by one, as `layers.unstack` has them."""
    return unstack(nnx.merge(graphdef, params).layers)


def cast(params: Params, dtype: Any) -> Params:
    """`params` with every array in `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def count(params: Params) -> int:
    """How many numbers `params` holds; arrays or `jax.ShapeDtypeStruct` alike."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
