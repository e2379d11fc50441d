"""The parts that several language models are built of, and what is done with a whole model."""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models.compute import Compute
from zsg_jax.models.lora import LoRA, attach
from zsg_jax.models.placement import TENSOR, constrain, constrain_rows

Params = dict[str, Any]


class RMSNorm(nnx.Module):
    """Root-mean-square norm (arXiv 1910.07467), computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes the last axis; the dtype of `x` comes back."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...]).astype(x.dtype)


def linear(
    inputs: int,
    outputs: int,
    compute: Compute,
    rngs: nnx.Rngs,
    *,
    bias: bool = False,
    deviation: float = 0.02,
    padding: int = 0,
) -> nnx.Linear:
    """A dense layer: normal weights of this deviation, a bias of 0 if any.

    `padding` outputs of weight 0 come after the others, whose weights do not depend on it.
    """

    def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        weights = deviation * jax.random.normal(key, (inputs, outputs), dtype)
        return jnp.pad(weights, ((0, 0), (0, padding)))

    return nnx.Linear(
        inputs,
        outputs + padding,
        use_bias=bias,
        dtype=compute.dtype,
        kernel_init=normal,
        rngs=rngs,
    )


def embedding(
    rows: int, width: int, compute: Compute, rngs: nnx.Rngs, *, padding: int = 0
) -> nnx.Embed:
    """A table of embeddings: normal with deviation 0.02, and `padding` rows of 0 after them."""

    def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        table = 0.02 * jax.random.normal(key, (rows, width), dtype)
        return jnp.pad(table, ((0, padding), (0, 0)))

    return nnx.Embed(rows + padding, width, dtype=compute.dtype, embedding_init=normal, rngs=rngs)


def lookup(table: nnx.Embed, ids_BxL: jax.Array) -> jax.Array:
    """The rows of a table, (B, L, D) in the dtype of the computation."""
    # Each device looks up its own tokens; of a table that is split by width it is sent the rest.
    rows_VxD = constrain(table.embedding[...].astype(table.dtype), TENSOR, None)
    return constrain_rows(jnp.take(rows_VxD, ids_BxL, axis=0))


class GatedMLP(nnx.Module):
    """The gated feed-forward layer, SwiGLU (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int, compute: Compute, rngs: nnx.Rngs) -> None:
        self.gate = linear(width, inner, compute, rngs)
        self.up = linear(width, inner, compute, rngs)
        self.down = linear(inner, width, compute, rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x_BxLxD)) * self.up(x_BxLxD))


def logits(x_BxLxD: jax.Array, head_DxV: jax.Array, vocab_size: int) -> jax.Array:
    """The scores of the next token, (B, L, vocab_size) float32; padded columns are left out."""
    # Operands in the dtype of `x`, sums in float32: fast without rounding the logits.
    return jnp.einsum(
        "bld,dv->blv",
        x_BxLxD,
        head_DxV[:, :vocab_size].astype(x_BxLxD.dtype),
        preferred_element_type=jnp.float32,
    )


def abstract(
    model: type[nnx.Module],
    config: Any,
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
    graphdef, shapes = _abstract(model, config, compute or Compute(), lora, training)
    return graphdef, jax.tree.map(lambda leaf: leaf, shapes)  # the dicts are the caller's


@lru_cache
def _abstract(
    model: type[nnx.Module], config: Any, compute: Compute, lora: LoRA | None, training: bool
) -> tuple[nnx.GraphDef, Params]:
    def make() -> nnx.Module:
        return _make(model, config, compute, nnx.Rngs(0), lora, training)

    graphdef, state = nnx.split(nnx.eval_shape(make))
    return graphdef, nnx.to_pure_dict(state)


def initialize(
    model: type[nnx.Module], config: Any, key: jax.Array, lora: LoRA | None = None
) -> Params:
    """Fresh float32 parameters, as the family begins, with fresh adapters. May be jitted."""
    made = _make(model, config, Compute(), nnx.Rngs(key), lora, training=False)
    return nnx.to_pure_dict(nnx.state(made))


def _make(
    model: type[nnx.Module],
    config: Any,
    compute: Compute,
    rngs: nnx.Rngs,
    lora: LoRA | None,
    training: bool,
) -> nnx.Module:
    made = model(config, compute, rngs)  # type: ignore[call-arg]
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
    """The model on a nested dict of parameters: logits of the next token, (B, L, V) float32."""
    model = nnx.merge(graphdef, params)
    x_BxLxD = model.hidden(tokens_BxL, positions_BxL, segment_ids_BxL)
    return logits(x_BxLxD, model.head(), model.config.vocab_size)


def hidden(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    positions_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """What the logits of `apply` are the product of, for a loss that never holds all of them.

    Returns:
        (B, L, D) in the dtype of the computation, and the head, (D, V + vocab_padding), in that of
        the parameters.
    """
    model = nnx.merge(graphdef, params)
    return model.hidden(tokens_BxL, positions_BxL, segment_ids_BxL), model.head()


def cast(params: Params, dtype: Any) -> Params:
    """`params` with every array in `dtype`."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def count(params: Params) -> int:
    """How many numbers `params` holds; arrays or `jax.ShapeDtypeStruct` alike."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
