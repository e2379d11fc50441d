"""The decoder of Llama, Mistral and Qwen, in Flax NNX; a config holds what they differ in.

Llama: arXiv 2302.13971, 2307.09288 and 2407.21783; Mistral 2310.06825; Qwen 2407.10671, 2412.15115
and 2505.09388. Letters in names give shapes: B sequences, L positions, D width, V vocabulary,
K key-value heads, N heads, H head width.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from flax import nnx

from zsg_jax.models import layers
from zsg_jax.models.attention import Mix
from zsg_jax.models.checks import check_divides, check_fields
from zsg_jax.models.layers import GatedMLP, RMSNorm, embedding, linear, lookup
from zsg_jax.models.placement import Compute, constrain_rows
from zsg_jax.models.rotary import RopeScaling, angles, rotate
from zsg_jax.runtime.errors import check


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; raises `UserError` on values that make no model.

    Attributes:
        family: a key of `families.FAMILIES`, whose names its weights have; computes nothing.
        attention_bias: whether queries, keys and values have biases.
        qk_norm: whether queries and keys are normalized, head by head.
        windows: how many tokens each layer's queries see at most, themselves included; None: all
            before them. Repeated over the layers: layer i has windows[i % len(windows)].
        vocab_padding: rows that the tables have beyond the vocabulary, where a mesh splits them;
            never predicted.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    attention_bias: bool = False
    qk_norm: bool = False
    windows: tuple[int | None, ...] = (None,)
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-5
    tie_embeddings: bool = False
    vocab_padding: int = 0

    def __post_init__(self) -> None:
        check_fields(self.family, self)
        check_divides(self.family, self, "num_heads", "num_kv_heads")
        check(
            self.head_dim % 2 == 0,
            f"{self.family}: head_dim={self.head_dim} is odd; rotary positions need an even one",
        )
        wrong = [w for w in self.windows if w is not None and (type(w) is not int or w < 1)]
        check(
            bool(self.windows) and not wrong,
            f"{self.family}: windows={self.windows!r}; give whole numbers above 0, or None for all",
        )

    def build(self, compute: Compute, rngs: nnx.Rngs) -> "Decoder":
        """The module with random weights: normal with deviation 0.02, biases 0, norm scales 1."""
        return Decoder(self, compute, rngs)


class Attention(nnx.Module):
    """Causal self-attention with rotary positions and grouped queries."""

    def __init__(self, config: DecoderConfig, compute: Compute, rngs: nnx.Rngs) -> None:
        c, bias = config, config.attention_bias
        self.q = linear(c.hidden_size, c.num_heads * c.head_dim, compute, rngs, bias=bias)
        self.k = linear(c.hidden_size, c.num_kv_heads * c.head_dim, compute, rngs, bias=bias)
        self.v = linear(c.hidden_size, c.num_kv_heads * c.head_dim, compute, rngs, bias=bias)
        self.o = linear(c.num_heads * c.head_dim, c.hidden_size, compute, rngs)
        if c.qk_norm:
            self.q_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
            self.k_norm = RMSNorm(c.head_dim, c.rms_norm_eps)
        self.config = c

    def __call__(
        self,
        x_BxLxD: jax.Array,
        angles_BxLxH2: jax.Array,
        mix: Mix,
        window: int | None,
        memory: Any,
    ) -> tuple[jax.Array, Any]:
        B, L, _ = x_BxLxD.shape
        K, H = self.config.num_kv_heads, self.config.head_dim
        q = self.q(x_BxLxD).reshape(B, L, -1, H)
        k = self.k(x_BxLxD).reshape(B, L, K, H)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, angles_BxLxH2), rotate(k, angles_BxLxH2)
        v = self.v(x_BxLxD).reshape(B, L, K, H)
        q = q.reshape(B, L, K, -1, H)
        mixed, memory = mix(q, k, v, window, memory)
        return self.o(mixed.reshape(B, L, -1)), memory


class Layer(nnx.Module):
    """One transformer layer, norms before each part."""

    def __init__(self, config: DecoderConfig, compute: Compute, rngs: nnx.Rngs) -> None:
        D = config.hidden_size
        self.attention_norm = RMSNorm(D, config.rms_norm_eps)
        self.attention = Attention(config, compute, rngs)
        self.mlp_norm = RMSNorm(D, config.rms_norm_eps)
        self.mlp = GatedMLP(D, config.intermediate_size, compute, rngs)

    def __call__(
        self,
        x_BxLxD: jax.Array,
        angles_BxLxH2: jax.Array,
        mix: Mix,
        window: int | None,
        memory: Any,
    ) -> tuple[jax.Array, Any]:
        added, memory = self.attention(
            self.attention_norm(x_BxLxD), angles_BxLxH2, mix, window, memory
        )
        x_BxLxD += added
        x_BxLxD += self.mlp(self.mlp_norm(x_BxLxD))
        return constrain_rows(x_BxLxD), memory


class Decoder(nnx.Module):
    """The whole model: computed as `Compute` says; softmax, norms and logits in float32."""

    def __init__(self, config: DecoderConfig, compute: Compute, rngs: nnx.Rngs) -> None:
        c, padding = config, config.vocab_padding
        self.embed = embedding(c.vocab_size, c.hidden_size, compute, rngs, padding=padding)
        self.layers = layers.stack(partial(Layer, c, compute), rngs, c.num_layers)
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        if not c.tie_embeddings:
            self.lm_head = linear(c.hidden_size, c.vocab_size, compute, rngs, padding=padding)
        self.config, self.compute = c, compute

    def hidden(
        self, tokens_BxL: jax.Array, positions_BxL: jax.Array, mix: Mix, memory: Any = None
    ) -> tuple[jax.Array, Any]:
        """What the head makes logits of, (B, L, D) in the dtype of the computation, and the memory.

        Args:
            tokens_BxL, positions_BxL: as `model.apply` takes them.
            mix, memory: what every layer mixes by, and what the first is handed.
        """
        c = self.config
        turned = angles(positions_BxL, c.head_dim, c.rope_theta, c.rope_scaling)

        def layer(number: int, one: Layer, carry: Any) -> Any:
            return one(carry[0], turned, mix, c.windows[number % len(c.windows)], carry[1])

        carry = lookup(self.embed, tokens_BxL), memory
        x, memory = layers.run(self.layers, layer, carry, self.compute, period=len(c.windows))
        return self.norm(x), memory

    def head(self) -> jax.Array:
        """The weights that make logits, (D, V + vocab_padding)."""
        if self.config.tie_embeddings:
            return self.embed.embedding[...].T
        return self.lm_head.kernel[...]
