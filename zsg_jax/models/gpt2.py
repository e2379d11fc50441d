"""GPT-2, the language model of the diversity study (arXiv 2402.10891), in Flax NNX.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019): learned positions,
norms before each part, the tanh form of gelu, the embedding used again as the head; no dropout.
Letters in names give shapes: B sequences, L positions, D width, V vocabulary, N heads,
H head width, F width of the feed-forward layer.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models.attention import Mix
from zsg_jax.models.checks import check_divides, check_fields
from zsg_jax.models.head import Head
from zsg_jax.models.layers import Unstacked, embedding, linear, lookup, run, stack
from zsg_jax.models.placement import Compute, constrain_rows


@dataclass(frozen=True)
class Gpt2Config:
    """The shape of a GPT-2; raises `UserError` on values that make no model."""

    family: ClassVar[str] = "gpt2"

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
        check_fields(self.family, self)
        check_divides(self.family, self, "hidden_size", "num_heads")

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values, as many as of queries."""
        return self.num_heads

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_heads

    @property
    def attention_softcap(self) -> None:
        """As `DecoderConfig` has it: scores are as they are."""

    @property
    def sinks(self) -> bool:
        """As `DecoderConfig` has it: none."""
        return False

    @property
    def windows(self) -> tuple[None]:
        """As `DecoderConfig` has them: all layers see all tokens before."""
        return (None,)

    def build(self, compute: Compute, rngs: nnx.Rngs) -> "Gpt2":
        """The module with random weights: normal with deviation 0.02, what adds to the residual
        stream with 0.02 / √(2 · layers); biases 0, norm scales 1.
        """
        return Gpt2(self, compute, rngs)


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
        self.heads = config.num_heads

    def __call__(self, x_BxLxD: jax.Array, mix: Mix, memory: Any) -> tuple[jax.Array, Any]:
        B, L, D = x_BxLxD.shape
        N, H = self.heads, D // self.heads
        q = self.q(x_BxLxD).reshape(B, L, N, 1, H)
        k = self.k(x_BxLxD).reshape(B, L, N, H)
        v = self.v(x_BxLxD).reshape(B, L, N, H)
        mixed, memory = mix(q, k, v, None, memory)
        return self.o(mixed.reshape(B, L, D)), memory


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

    def __call__(self, x_BxLxD: jax.Array, mix: Mix, memory: Any) -> tuple[jax.Array, Any]:
        added, memory = self.attention(self.attention_norm(x_BxLxD), mix, memory)
        x_BxLxD += added
        x_BxLxD += self.mlp(self.mlp_norm(x_BxLxD))
        return constrain_rows(x_BxLxD), memory


class Gpt2(nnx.Module):
    """The whole model: computed as `Compute` says; softmax, norms and logits in float32."""

    def __init__(self, config: Gpt2Config, compute: Compute, rngs: nnx.Rngs) -> None:
        c = config
        self.embed = embedding(c.vocab_size, c.hidden_size, compute, rngs, padding=c.vocab_padding)
        self.position = embedding(c.max_positions, c.hidden_size, compute, rngs)
        self.layers = stack(partial(Layer, c, compute), rngs, c.num_layers)
        self.norm = _norm(c, rngs)
        self.config, self.compute = c, compute

    def hidden(
        self,
        tokens_BxL: jax.Array,
        positions_BxL: jax.Array,
        mix: Mix,
        memory: Any = None,
        layers: Unstacked | None = None,
    ) -> tuple[jax.Array, Any]:
        """What the head makes logits of, (B, L, D) in the dtype of the computation, and the memory.

        The arguments are those of `Decoder.hidden`; positions are below `max_positions`.
        """
        x, memory = self.stream(tokens_BxL, positions_BxL, mix, memory, layers)
        return self.norm(x).astype(self.compute.dtype), memory

    def stream(
        self,
        tokens_BxL: jax.Array,
        positions_BxL: jax.Array,
        mix: Mix,
        memory: Any = None,
        layers: Unstacked | None = None,
    ) -> tuple[jax.Array, Any]:
        """As `hidden`, before the last norm: what the last layer gives."""
        x = lookup(self.embed, tokens_BxL) + lookup(self.position, positions_BxL)

        def layer(_: int, one: Layer, carry: Any) -> Any:
            return one(carry[0], mix, carry[1])

        return run(layers or self.layers, layer, (x, memory), self.compute)

    def head(self) -> Head:
        """What makes logits."""
        return Head(self.embed.embedding[...].T)
