"""GPT-2, the language model of the diversity study (arXiv 2402.10891), in Flax NNX.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019): learned positions,
norms before each part, the tanh form of gelu, the embedding used again as the head; no dropout.
Letters in names give shapes: B rows, L positions, D width, V vocabulary, N heads, H head width,
F width of the feed-forward layer.
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
class Gpt2Config:
    """The shape of a GPT-2; raises `UserError` on values that make no model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    layer_norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name, kind in self.__annotations__.items():
            if kind is not int:
                continue
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            check(whole and value > 0, f"GPT-2: {name}={value!r}; give a whole number above 0")
        eps = self.layer_norm_eps
        check(
            isinstance(eps, float) and 0 < eps < 1,
            f"GPT-2: layer_norm_eps={eps!r}; give a number between 0 and 1",
        )
        check(
            self.hidden_size % self.num_heads == 0,
            f"GPT-2: hidden_size={self.hidden_size} is no multiple of num_heads={self.num_heads};"
            " give a num_heads that divides it",
        )


# All but "gpt2" take the vocabulary of whatever tokenizer the study has.
SIZES: dict[str, dict[str, Any]] = {
    # 0.15 M parameters besides the embeddings: for tests and first tries on a laptop.
    "tiny": {"hidden_size": 64, "intermediate_size": 256, "num_layers": 3, "num_heads": 4},
    # arXiv 2402.10891; 4.7 M besides the embeddings.
    "diversity": {"hidden_size": 256, "intermediate_size": 1024, "num_layers": 6, "num_heads": 4},
    # The smallest published one; 124,439,808 parameters.
    "gpt2": {
        "vocab_size": 50257,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_layers": 12,
        "num_heads": 12,
        "max_positions": 1024,
    },
}


def sized(name: str, vocab_size: int | None = None, max_positions: int | None = None) -> Gpt2Config:
    """The config of a named size; `vocab_size` and `max_positions` win over the size's own.

    Raises:
        UserError: `name` is none of `SIZES`, or the size has no vocabulary or positions of its
            own and none were given.
    """
    if name not in SIZES:
        hint = nearest(name, SIZES, cutoff=0.3)
        raise UserError(f"GPT-2 size {name!r} is not one of {', '.join(SIZES)}{hint}")
    values = dict(SIZES[name])
    for key, value in (("vocab_size", vocab_size), ("max_positions", max_positions)):
        if value is not None:
            values[key] = value
        check(key in values, f"GPT-2 size {name!r} has no {key} of its own; give one")
    return Gpt2Config(**values)


def _linear(
    inputs: int, outputs: int, dtype: Any, rngs: nnx.Rngs, deviation: float = 0.02
) -> nnx.Linear:
    init = nnx.initializers.normal(deviation)
    return nnx.Linear(inputs, outputs, dtype=dtype, kernel_init=init, rngs=rngs)


def _residual_deviation(config: Gpt2Config) -> float:
    """Of the weights that add to the residual stream, to which each layer adds twice."""
    return 0.02 / math.sqrt(2 * config.num_layers)


def _norm(config: Gpt2Config, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm (arXiv 1607.06450) that computes, and gives, float32."""
    return nnx.LayerNorm(
        config.hidden_size,
        epsilon=config.layer_norm_eps,
        use_fast_variance=False,
        dtype=jnp.float32,
        rngs=rngs,
    )


class Attention(nnx.Module):
    """Causal self-attention; the original's one fused kernel is three here."""

    def __init__(self, config: Gpt2Config, dtype: Any, rngs: nnx.Rngs) -> None:
        D = config.hidden_size
        self.q = _linear(D, D, dtype, rngs)
        self.k = _linear(D, D, dtype, rngs)
        self.v = _linear(D, D, dtype, rngs)
        self.o = _linear(D, D, dtype, rngs, _residual_deviation(config))
        self.heads = config.num_heads

    def __call__(self, x_BxLxD: jax.Array, mask_BxLxL: jax.Array) -> jax.Array:
        B, L, D = x_BxLxD.shape
        N, H = self.heads, D // self.heads
        q = self.q(x_BxLxD).reshape(B, L, N, 1, H)
        k = self.k(x_BxLxD).reshape(B, L, N, H)
        v = self.v(x_BxLxD).reshape(B, L, N, H)
        return self.o(attend_causally(q, k, v, mask_BxLxL).reshape(B, L, D))


class MLP(nnx.Module):
    """The feed-forward layer."""

    def __init__(self, config: Gpt2Config, dtype: Any, rngs: nnx.Rngs) -> None:
        D, F = config.hidden_size, config.intermediate_size
        self.up = _linear(D, F, dtype, rngs)
        self.down = _linear(F, D, dtype, rngs, _residual_deviation(config))

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(x_BxLxD), approximate=True))


class Layer(nnx.Module):
    """One transformer layer, norms before each part."""

    def __init__(self, config: Gpt2Config, dtype: Any, rngs: nnx.Rngs) -> None:
        self.attention_norm = _norm(config, rngs)
        self.attention = Attention(config, dtype, rngs)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = MLP(config, dtype, rngs)

    def __call__(self, x_BxLxD: jax.Array, mask_BxLxL: jax.Array) -> jax.Array:
        x_BxLxD += self.attention(self.attention_norm(x_BxLxD), mask_BxLxL)
        x_BxLxD += self.mlp(self.mlp_norm(x_BxLxD))
        return x_BxLxD


class Gpt2(nnx.Module):
    """The whole model: float32 parameters, computed in `dtype`; softmax, norms, logits float32.

    With `remat`, the backward pass computes each layer again instead of keeping what is inside it.
    """

    def __init__(
        self, config: Gpt2Config, *, dtype: Any = jnp.float32, remat: bool = False, rngs: nnx.Rngs
    ) -> None:
        c = config
        init = nnx.initializers.normal(0.02)
        self.embed = nnx.Embed(
            c.vocab_size, c.hidden_size, dtype=dtype, embedding_init=init, rngs=rngs
        )
        self.position = nnx.Embed(
            c.max_positions, c.hidden_size, dtype=dtype, embedding_init=init, rngs=rngs
        )
        # A Dict, for string keys; it does not keep their order, so go by number below.
        self.layers = nnx.Dict({str(i): Layer(c, dtype, rngs) for i in range(c.num_layers)})
        self.norm = _norm(c, rngs)
        self.config, self.dtype, self.remat = c, dtype, remat

    def __call__(
        self, tokens_BxL: jax.Array, positions_BxL: jax.Array, segment_ids_BxL: jax.Array
    ) -> jax.Array:
        """Next-token logits, (B, L, V) float32.

        Args:
            tokens_BxL: int32, from 0 to V-1.
            positions_BxL: int32, each token's place in its own segment, from 0 to below
                `max_positions`.
            segment_ids_BxL: int32; a token sees the earlier ones of its row that carry the same
                number. 0 is padding, which sees and is seen by nothing.
        """
        mask = segment_mask(segment_ids_BxL)
        layer = nnx.remat(Layer.__call__) if self.remat else Layer.__call__
        x_BxLxD = self.embed(tokens_BxL) + self.position(positions_BxL)
        for i in range(self.config.num_layers):
            x_BxLxD = layer(self.layers[str(i)], x_BxLxD, mask)
        x_BxLxD = self.norm(x_BxLxD).astype(self.dtype)
        head_DxV = self.embed.embedding[...].T
        # Operands in `dtype`, sums in float32: fast on an accelerator without rounding the logits.
        return jnp.einsum(
            "bld,dv->blv", x_BxLxD, head_DxV.astype(self.dtype), preferred_element_type=jnp.float32
        )


def abstract(
    config: Gpt2Config, dtype: Any = jnp.float32, *, remat: bool = False
) -> tuple[nnx.GraphDef, Params]:
    """The model's definition and the shapes of its parameters; takes no memory at any size.

    Returns:
        The graph definition that `apply` takes, and a nested dict of `jax.ShapeDtypeStruct`,
        float32, such as `params["layers"]["0"]["attention"]["q"]["kernel"]`.
    """
    model = nnx.eval_shape(lambda: Gpt2(config, dtype=dtype, remat=remat, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    return graphdef, nnx.to_pure_dict(state)


def initialize(config: Gpt2Config, key: jax.Array) -> Params:
    """Fresh float32 parameters, as GPT-2 begins; may be jitted.

    Normal with deviation 0.02, what adds to the residual stream with 0.02 / √(2 · layers); biases
    0, norm scales 1.
    """
    return nnx.to_pure_dict(nnx.state(Gpt2(config, rngs=nnx.Rngs(key))))


def apply(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    positions_BxL: jax.Array,
    segment_ids_BxL: jax.Array,
) -> jax.Array:
    """`Gpt2.__call__` on a nested dict of parameters: logits, (B, L, V) float32."""
    return nnx.merge(graphdef, params)(tokens_BxL, positions_BxL, segment_ids_BxL)


def count(params: Params) -> int:
    """How many numbers `params` holds; arrays or `jax.ShapeDtypeStruct` alike."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
