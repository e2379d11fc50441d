"""BERT, the encoder under the sentence embeddings: arXiv 1810.04805, in Flax NNX.

Letters in names give shapes: B sequences, L positions (M when they are keys), D width, N heads,
H head width. Norms come after each part, the activation is the exact gelu, there is no dropout.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models.checks import check_divides, check_fields
from zsg_jax.models.placement import Params


@dataclass(frozen=True)
class BertConfig:
    """The shape of a BERT encoder; raises `UserError` on values that make no model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        check_fields("BERT", self)
        check_divides("BERT", self, "hidden_size", "num_heads")


class Attention(nnx.Module):
    """Self-attention of all tokens to all that are no padding."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        D = config.hidden_size
        self.q = nnx.Linear(D, D, rngs=rngs)
        self.k = nnx.Linear(D, D, rngs=rngs)
        self.v = nnx.Linear(D, D, rngs=rngs)
        self.o = nnx.Linear(D, D, rngs=rngs)
        self.heads = config.num_heads

    def __call__(self, x_BxLxD: jax.Array, mask_BxM: jax.Array) -> jax.Array:
        B, L, D = x_BxLxD.shape
        heads = (B, L, self.heads, D // self.heads)
        q_BxLxNxH = self.q(x_BxLxD).reshape(heads)
        k_BxMxNxH = self.k(x_BxLxD).reshape(heads)
        v_BxMxNxH = self.v(x_BxLxD).reshape(heads)
        scores = jnp.einsum("blnh,bmnh->bnlm", q_BxLxNxH, k_BxMxNxH) * heads[-1] ** -0.5
        # The lowest finite number and not -inf: a sequence without a token would make softmax 0/0.
        scores = jnp.where(mask_BxM[:, None, None], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, axis=-1)
        return self.o(jnp.einsum("bnlm,bmnh->blnh", weights, v_BxMxNxH).reshape(B, L, D))


class MLP(nnx.Module):
    """The feed-forward layer."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(config.hidden_size, config.intermediate_size, rngs=rngs)
        self.down = nnx.Linear(config.intermediate_size, config.hidden_size, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(x_BxLxD), approximate=False))


class Layer(nnx.Module):
    """One transformer layer, norms after each part."""

    def __init__(self, config: BertConfig, rngs: nnx.Rngs) -> None:
        D, eps = config.hidden_size, config.layer_norm_eps
        self.attention = Attention(config, rngs)
        self.attention_norm = nnx.LayerNorm(D, epsilon=eps, use_fast_variance=False, rngs=rngs)
        self.mlp = MLP(config, rngs)
        self.mlp_norm = nnx.LayerNorm(D, epsilon=eps, use_fast_variance=False, rngs=rngs)

    def __call__(self, x_BxLxD: jax.Array, mask_BxM: jax.Array) -> jax.Array:
        x_BxLxD = self.attention_norm(x_BxLxD + self.attention(x_BxLxD, mask_BxM))
        return self.mlp_norm(x_BxLxD + self.mlp(x_BxLxD))


class Bert(nnx.Module):
    """The encoder without a head, in float32."""

    def __init__(self, config: BertConfig, *, rngs: nnx.Rngs) -> None:
        c = config
        self.word = nnx.Embed(c.vocab_size, c.hidden_size, rngs=rngs)
        self.position = nnx.Embed(c.max_positions, c.hidden_size, rngs=rngs)
        self.token_type = nnx.Embed(c.type_vocab_size, c.hidden_size, rngs=rngs)
        self.norm = nnx.LayerNorm(
            c.hidden_size, epsilon=c.layer_norm_eps, use_fast_variance=False, rngs=rngs
        )
        # A Dict, for string keys; it does not keep their order, so go by number below.
        self.layers = nnx.Dict({str(i): Layer(c, rngs) for i in range(c.num_layers)})
        self.num_layers = c.num_layers

    def __call__(
        self, tokens_BxL: jax.Array, mask_BxL: jax.Array, types_BxL: jax.Array | None = None
    ) -> jax.Array:
        """The last hidden states, (B, L, D) float32.

        Args:
            tokens_BxL: int32, from 0 to the vocabulary's end; L is at most `max_positions`.
            mask_BxL: bool or int32, nonzero where a token is and not padding.
            types_BxL: int32 token types; all 0 when left out.
        """
        types = jnp.zeros_like(tokens_BxL) if types_BxL is None else types_BxL
        positions = jnp.arange(tokens_BxL.shape[1])
        x_BxLxD = self.word(tokens_BxL) + self.token_type(types) + self.position(positions)
        x_BxLxD = self.norm(x_BxLxD)
        for i in range(self.num_layers):
            x_BxLxD = self.layers[str(i)](x_BxLxD, mask_BxL != 0)
        return x_BxLxD


def abstract(config: BertConfig) -> tuple[nnx.GraphDef, Params]:
    """The model's definition and the shapes of its parameters, a nested dict; takes no memory."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Bert(config, rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)


def apply(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    mask_BxL: jax.Array,
    types_BxL: jax.Array | None = None,
) -> jax.Array:
    """`Bert.__call__` on a nested dict of parameters: last hidden states, (B, L, D) float32."""
    return nnx.merge(graphdef, params)(tokens_BxL, mask_BxL, types_BxL)
