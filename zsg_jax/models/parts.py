"""The parts that several language models are built of, and what is done with a whole model."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

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
    dtype: Any,
    rngs: nnx.Rngs,
    *,
    bias: bool = False,
    deviation: float = 0.02,
) -> nnx.Linear:
    """A dense layer: normal weights of this deviation, a bias of 0 if any."""
    init = nnx.initializers.normal(deviation)
    return nnx.Linear(inputs, outputs, use_bias=bias, dtype=dtype, kernel_init=init, rngs=rngs)


def embedding(rows: int, width: int, dtype: Any, rngs: nnx.Rngs) -> nnx.Embed:
    """A table of embeddings: normal with deviation 0.02."""
    init = nnx.initializers.normal(0.02)
    return nnx.Embed(rows, width, dtype=dtype, embedding_init=init, rngs=rngs)


class GatedMLP(nnx.Module):
    """The gated feed-forward layer, SwiGLU (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int, dtype: Any, rngs: nnx.Rngs) -> None:
        self.gate = linear(width, inner, dtype, rngs)
        self.up = linear(width, inner, dtype, rngs)
        self.down = linear(inner, width, dtype, rngs)

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
    model: type[nnx.Module], config: Any, dtype: Any = jnp.float32, *, remat: bool = False
) -> tuple[nnx.GraphDef, Params]:
    """The model's definition and the shapes of its parameters; takes no memory at any size.

    Returns:
        The graph definition that `apply` takes, and a nested dict of `jax.ShapeDtypeStruct`,
        float32, such as `params["layers"]["0"]["attention"]["q"]["kernel"]`.
    """

    def make() -> nnx.Module:
        return model(config, dtype=dtype, remat=remat, rngs=nnx.Rngs(0))  # type: ignore[call-arg]

    graphdef, state = nnx.split(nnx.eval_shape(make))
    return graphdef, nnx.to_pure_dict(state)


def initialize(model: type[nnx.Module], config: Any, key: jax.Array) -> Params:
    """Fresh float32 parameters, as the family begins. May be jitted."""
    return nnx.to_pure_dict(nnx.state(model(config, rngs=nnx.Rngs(key))))  # type: ignore[call-arg]


def apply(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    positions_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
) -> jax.Array:
    """The model's `__call__` on a nested dict of parameters: logits, (B, L, V) float32."""
    return nnx.merge(graphdef, params)(tokens_BxL, positions_BxL, segment_ids_BxL)


def count(params: Params) -> int:
    """How many numbers `params` holds; arrays or `jax.ShapeDtypeStruct` alike."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
