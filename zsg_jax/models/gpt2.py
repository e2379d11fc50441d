"""GPT-2, the language model of the diversity study (arXiv 2402.10891), in Flax NNX.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019): learned positions,
norms before each part, the tanh form of gelu, the embedding used again as the head; no dropout.
Letters in names give shapes: B rows, L positions, D width, V vocabulary, N heads, H head width,
F width of the feed-forward layer.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models import layers, parts, shapes
from zsg_jax.models.attention import attend
from zsg_jax.models.compute import Compute
from zsg_jax.models.parts import embedding, linear, lookup
from zsg_jax.runtime.errors import check


@dataclass(frozen=True)
class Gpt2Config:
    """The shape of a GPT-2; raises `UserError` on values that make no model."""

    NAME: ClassVar[str] = "GPT-2"

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    layer_norm_eps: float = 1e-5
    # Rows that the table has beyond the vocabulary, where a mesh splits it; never predicted.
    vocab_padding: int = 0

    def __post_init__(self) -> None:
        shapes.check_whole_numbers(self)
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
    """The config of a named size, as `shapes.sized` makes it."""
    return shapes.sized(Gpt2Config, SIZES, name, vocab_size, max_positions)


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

    def __init__(self, config: Gpt2Config, compute: Compute, rngs: nnx.Rngs) -> None:
        D, deviation = config.hidden_size, _residual_deviation(config)
        self.q = linear(D, D, compute, rngs, bias=True)
        self.k = linear(D, D, compute, rngs, bias=True)
        self.v = linear(D, D, compute, rngs, bias=True)
        self.o = linear(D, D, compute, rngs, bias=True, deviation=deviation)
        self.heads, self.kind = config.num_heads, compute.attention

    def __call__(self, x_BxLxD: jax.Array, segment_ids_BxL: jax.Array) -> jax.Array:
        B, L, D = x_BxLxD.shape
        N, H = self.heads, D // self.heads
        q = self.q(x_BxLxD).reshape(B, L, N, 1, H)
        k = self.k(x_BxLxD).reshape(B, L, N, H)
        v = self.v(x_BxLxD).reshape(B, L, N, H)
        mixed = attend(q, k, v, segment_ids_BxL, kind=self.kind)
        return self.o(mixed.reshape(B, L, D))


class MLP(nnx.Module):
    """The feed-forward layer."""

    def __init__(self, config: Gpt2Config, compute: Compute, rngs: nnx.Rngs) -> None:
        D, F = config.hidden_size, config.intermediate_size
        deviation = _residual_deviation(config)
        self.up = linear(D, F, compute, rngs, bias=True)
        self.down = linear(F, D, compute, rngs, bias=True, deviation=deviation)

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(x_BxLxD), approximate=True))


class Layer(nnx.Module):
    """One transformer layer, norms before each part."""

    def __init__(self, config: Gpt2Config, compute: Compute, rngs: nnx.Rngs) -> None:
        self.attention_norm = _norm(config, rngs)
        self.attention = Attention(config, compute, rngs)
        self.mlp_norm = _norm(config, rngs)
        self.mlp = MLP(config, compute, rngs)

    def __call__(self, x_BxLxD: jax.Array, segment_ids_BxL: jax.Array) -> jax.Array:
        x_BxLxD += self.attention(self.attention_norm(x_BxLxD), segment_ids_BxL)
        x_BxLxD += self.mlp(self.mlp_norm(x_BxLxD))
        return x_BxLxD


class Gpt2(nnx.Module):
    """The whole model: computed as `Compute` says; softmax, norms and logits in float32."""

    def __init__(self, config: Gpt2Config, compute: Compute, rngs: nnx.Rngs) -> None:
        c = config
        self.embed = embedding(c.vocab_size, c.hidden_size, compute, rngs, padding=c.vocab_padding)
        self.position = embedding(c.max_positions, c.hidden_size, compute, rngs)
        self.layers = layers.stack(partial(Layer, c, compute), rngs, c.num_layers)
        self.norm = _norm(c, rngs)
        self.config, self.compute = c, compute

    def hidden(
        self, tokens_BxL: jax.Array, positions_BxL: jax.Array, segment_ids_BxL: jax.Array
    ) -> jax.Array:
        """What the head makes logits of, (B, L, D) in the dtype of the computation.

        Args:
            tokens_BxL: int32, from 0 to V-1.
            positions_BxL: int32, each token's place in its own segment, from 0 to below
                `max_positions`.
            segment_ids_BxL: int32; a token sees the earlier ones of its row that carry the same
                number. 0 is padding, which sees and is seen by nothing.
        """
        x_BxLxD = lookup(self.embed, tokens_BxL) + lookup(self.position, positions_BxL)
        x_BxLxD = layers.run(self.layers, x_BxLxD, segment_ids_BxL, compute=self.compute)
        return self.norm(x_BxLxD).astype(self.compute.dtype)

    def head(self) -> jax.Array:
        """The weights that make logits, (D, V + vocab_padding)."""
        return self.embed.embedding[...].T


abstract = partial(parts.abstract, Gpt2)
# Normal with deviation 0.02, what adds to the residual stream with 0.02 / √(2 · layers); biases 0,
# norm scales 1.
initialize = partial(parts.initialize, Gpt2)
apply, hidden, count = parts.apply, parts.hidden, parts.count
