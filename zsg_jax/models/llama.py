"""Llama, the language model that is trained: arXiv 2302.13971 and 2307.09288, in Flax NNX.

Letters in names give shapes: B rows, L positions (M when they are keys), D width, V vocabulary,
K key-value heads, G query heads for each of them, H head width, F width of the feed-forward layer.
Rotary embeddings turn halves, not pairs, as Hugging Face does, so its weights load unpermuted.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.errors import UserError, check, nearest
from zsg_jax.models.attention import attend_causally, segment_mask

Params = dict[str, Any]


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a Llama; raises `UserError` on values that make no model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        for name, kind in self.__annotations__.items():
            if kind is not int:
                continue
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            check(whole and value > 0, f"Llama: {name}={value!r}; give a whole number above 0")
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            check(
                number and 0 < value < math.inf,
                f"Llama: {name}={value!r}; give a number above 0",
            )
        check(
            isinstance(self.tie_embeddings, bool),
            f"Llama: tie_embeddings={self.tie_embeddings!r}; give True or False",
        )
        check(
            self.num_heads % self.num_kv_heads == 0,
            f"Llama: num_heads={self.num_heads} is no multiple of "
            f"num_kv_heads={self.num_kv_heads}; give a num_kv_heads that divides it",
        )
        check(
            self.head_dim % 2 == 0,
            f"Llama: head_dim={self.head_dim} is odd; rotary positions need an even one",
        )


# "tiny" and "small" take the vocabulary of whatever tokenizer the study has.
SIZES: dict[str, dict[str, Any]] = {
    # 0.11 M parameters besides the embedding: for tests and first tries on a laptop.
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_layers": 3,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "tie_embeddings": True,
    },
    # 4.3 M besides the embedding, about 6 M with 8,192 tokens.
    "small": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_layers": 6,
        "num_heads": 8,
        "num_kv_heads": 4,
        "head_dim": 32,
        "tie_embeddings": True,
    },
    # arXiv 2307.09288; 6,738,415,616 parameters.
    "llama2_7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_layers": 32,
        "num_heads": 32,
        "num_kv_heads": 32,
        "head_dim": 128,
        "max_positions": 4096,
    },
}


def sized(
    name: str, vocab_size: int | None = None, max_positions: int | None = None
) -> LlamaConfig:
    """The config of a named size; `vocab_size` and `max_positions` win over the size's own.

    Raises:
        UserError: `name` is none of `SIZES`, or the size has no vocabulary or positions of its
            own and none were given.
    """
    if name not in SIZES:
        hint = nearest(name, SIZES, cutoff=0.3)
        raise UserError(f"Llama size {name!r} is not one of {', '.join(SIZES)}{hint}")
    values = dict(SIZES[name])
    for key, value in (("vocab_size", vocab_size), ("max_positions", max_positions)):
        if value is not None:
            values[key] = value
        check(key in values, f"Llama size {name!r} has no {key} of its own; give one")
    return LlamaConfig(**values)


def rotate(x_BxLxNxH: jax.Array, angles_BxLxH2: jax.Array) -> jax.Array:
    """Rotary position embedding of queries or keys (arXiv 2104.09864), halves turned."""
    cos, sin = jnp.cos(angles_BxLxH2)[:, :, None], jnp.sin(angles_BxLxH2)[:, :, None]
    a, b = jnp.split(x_BxLxNxH.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return turned.astype(x_BxLxNxH.dtype)


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


def _linear(inputs: int, outputs: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    init = nnx.initializers.normal(0.02)
    return nnx.Linear(inputs, outputs, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)


class Attention(nnx.Module):
    """Causal self-attention with rotary positions and grouped queries."""

    def __init__(self, config: LlamaConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        c = config
        self.q = _linear(c.hidden_size, c.num_heads * c.head_dim, dtype, rngs)
        self.k = _linear(c.hidden_size, c.num_kv_heads * c.head_dim, dtype, rngs)
        self.v = _linear(c.hidden_size, c.num_kv_heads * c.head_dim, dtype, rngs)
        self.o = _linear(c.num_heads * c.head_dim, c.hidden_size, dtype, rngs)
        self.kv_heads, self.head_dim = c.num_kv_heads, c.head_dim

    def __call__(
        self, x_BxLxD: jax.Array, angles_BxLxH2: jax.Array, mask_BxLxM: jax.Array
    ) -> jax.Array:
        B, L, _ = x_BxLxD.shape
        K, H = self.kv_heads, self.head_dim
        q = rotate(self.q(x_BxLxD).reshape(B, L, -1, H), angles_BxLxH2)
        k = rotate(self.k(x_BxLxD).reshape(B, L, K, H), angles_BxLxH2)
        v = self.v(x_BxLxD).reshape(B, L, K, H)
        mixed = attend_causally(q.reshape(B, L, K, -1, H), k, v, mask_BxLxM)
        return self.o(mixed.reshape(B, L, -1))


class MLP(nnx.Module):
    """The gated feed-forward layer, SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: LlamaConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        D, F = config.hidden_size, config.intermediate_size
        self.gate = _linear(D, F, dtype, rngs)
        self.up = _linear(D, F, dtype, rngs)
        self.down = _linear(F, D, dtype, rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x_BxLxD)) * self.up(x_BxLxD))


class Layer(nnx.Module):
    """One transformer layer, norms before each part."""

    def __init__(self, config: LlamaConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = Attention(config, dtype, rngs)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config, dtype, rngs)

    def __call__(
        self, x_BxLxD: jax.Array, angles_BxLxH2: jax.Array, mask_BxLxM: jax.Array
    ) -> jax.Array:
        x_BxLxD += self.attention(self.attention_norm(x_BxLxD), angles_BxLxH2, mask_BxLxM)
        x_BxLxD += self.mlp(self.mlp_norm(x_BxLxD))
        return x_BxLxD


class Llama(nnx.Module):
    """The whole model: float32 parameters, computed in `dtype`; softmax, norms, logits float32.

    With `remat`, the backward pass computes each layer again instead of keeping what is inside it.
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        c = config
        init = nnx.initializers.normal(0.02)
        self.embed = nnx.Embed(
            c.vocab_size, c.hidden_size, dtype=dtype, embedding_init=init, rngs=rngs
        )
        # A Dict, for string keys; it does not keep their order, so go by number below.
        self.layers = nnx.Dict({str(i): Layer(c, dtype, rngs) for i in range(c.num_layers)})
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        if not c.tie_embeddings:
            self.lm_head = _linear(c.hidden_size, c.vocab_size, dtype, rngs)
        self.config, self.dtype, self.remat = c, dtype, remat

    def __call__(
        self, tokens_BxL: jax.Array, positions_BxL: jax.Array, segment_ids_BxL: jax.Array
    ) -> jax.Array:
        """Next-token logits, (B, L, V) float32.

        Args:
            tokens_BxL: int32, from 0 to V-1.
            positions_BxL: int32, each token's place in its own segment, from 0.
            segment_ids_BxL: int32; a token sees the earlier ones of its row that carry the same
                number. 0 is padding, which sees and is seen by nothing.
        """
        c = self.config
        frequencies = c.rope_theta ** (-jnp.arange(0, c.head_dim, 2, jnp.float32) / c.head_dim)
        angles = positions_BxL[..., None].astype(jnp.float32) * frequencies
        mask = segment_mask(segment_ids_BxL)

        layer = nnx.remat(Layer.__call__) if self.remat else Layer.__call__
        x_BxLxD = self.embed(tokens_BxL)
        for i in range(c.num_layers):
            x_BxLxD = layer(self.layers[str(i)], x_BxLxD, angles, mask)
        x_BxLxD = self.norm(x_BxLxD)
        head_DxV = self.embed.embedding[...].T if c.tie_embeddings else self.lm_head.kernel[...]
        # Operands in `dtype`, sums in float32: fast on an accelerator without rounding the logits.
        return jnp.einsum(
            "bld,dv->blv", x_BxLxD, head_DxV.astype(self.dtype), preferred_element_type=jnp.float32
        )


def abstract(
    config: LlamaConfig, dtype: Any = jnp.float32, *, remat: bool = False
) -> tuple[nnx.GraphDef, Params]:
    """The model's definition and the shapes of its parameters; takes no memory at any size.

    Returns:
        The graph definition that `apply` takes, and a nested dict of `jax.ShapeDtypeStruct`,
        float32, such as `params["layers"]["0"]["attention"]["q"]["kernel"]`.
    """
    model = nnx.eval_shape(lambda: Llama(config, dtype=dtype, remat=remat, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def initialize(config: LlamaConfig, key: jax.Array) -> Params:
    """Fresh float32 parameters: normal with deviation 0.02, norm scales 1. May be jitted."""
    return nnx.to_pure_dict(nnx.state(Llama(config, rngs=nnx.Rngs(key))))


def apply(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    positions_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
) -> jax.Array:
    """`Llama.__call__` on a nested dict of parameters: logits, (B, L, V) float32."""
    return nnx.merge(graphdef, params)(tokens_BxL, positions_BxL, segment_ids_BxL)


def count(params: Params) -> int:
    """How many numbers `params` holds; arrays or `jax.ShapeDtypeStruct` alike."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
