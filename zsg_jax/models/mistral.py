"""Mistral 7B: arXiv 2310.06825, in Flax NNX: attention looks back over a window alone.

Letters in names give shapes: B rows, L positions (M when they are keys), D width, V vocabulary,
K key-value heads, N heads, H head width.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
from flax import nnx

from zsg_jax.models import layers, parts, shapes
from zsg_jax.models.attention import attend
from zsg_jax.models.compute import Compute
from zsg_jax.models.parts import GatedMLP, RMSNorm, embedding, linear, lookup
from zsg_jax.models.rotary import angles, rotate
from zsg_jax.runtime.errors import check


@dataclass(frozen=True)
class MistralConfig(shapes.RotaryConfig):
    """The shape of a Mistral; raises `UserError` on values that make no model."""

    NAME: ClassVar[str] = "Mistral"
    # A token sees itself and the sliding_window - 1 before it; None: all before it.
    sliding_window: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        window = self.sliding_window
        check(
            window is None or (type(window) is int and window > 0),
            f"Mistral: sliding_window={window!r}; give a whole number above 0, or None",
        )


# "tiny" takes the vocabulary of whatever tokenizer the study has.
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
        "sliding_window": 64,
    },
    # arXiv 2310.06825; 7,241,732,096 parameters.
    "mistral_7b": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_layers": 32,
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "max_positions": 32768,
        "sliding_window": 4096,
    },
}


def sized(
    name: str, vocab_size: int | None = None, max_positions: int | None = None
) -> MistralConfig:
    """The config of a named size, as `shapes.sized` makes it."""
    return shapes.sized(MistralConfig, SIZES, name, vocab_size, max_positions)


class Attention(nnx.Module):
    """Causal self-attention over a sliding window, with rotary positions and grouped queries."""

    def __init__(self, config: MistralConfig, compute: Compute, rngs: nnx.Rngs) -> None:
        c = config
        self.q = linear(c.hidden_size, c.num_heads * c.head_dim, compute, rngs)
        self.k = linear(c.hidden_size, c.num_kv_heads * c.head_dim, compute, rngs)
        self.v = linear(c.hidden_size, c.num_kv_heads * c.head_dim, compute, rngs)
        self.o = linear(c.num_heads * c.head_dim, c.hidden_size, compute, rngs)
        self.kv_heads, self.head_dim, self.kind = c.num_kv_heads, c.head_dim, compute.attention
        self.window = c.sliding_window

    def __call__(
        self, x_BxLxD: jax.Array, angles_BxLxH2: jax.Array, segment_ids_BxL: jax.Array
    ) -> jax.Array:
        B, L, _ = x_BxLxD.shape
        K, H = self.kv_heads, self.head_dim
        q = rotate(self.q(x_BxLxD).reshape(B, L, -1, H), angles_BxLxH2)
        k = rotate(self.k(x_BxLxD).reshape(B, L, K, H), angles_BxLxH2)
        v = self.v(x_BxLxD).reshape(B, L, K, H)
        q = q.reshape(B, L, K, -1, H)
        mixed = attend(q, k, v, segment_ids_BxL, window=self.window, kind=self.kind)
        return self.o(mixed.reshape(B, L, -1))


class Layer(nnx.Module):
    """One transformer layer, norms before each part."""

    def __init__(self, config: MistralConfig, compute: Compute, rngs: nnx.Rngs) -> None:
        D = config.hidden_size
        self.attention_norm = RMSNorm(D, config.rms_norm_eps)
        self.attention = Attention(config, compute, rngs)
        self.mlp_norm = RMSNorm(D, config.rms_norm_eps)
        self.mlp = GatedMLP(D, config.intermediate_size, compute, rngs)

    def __call__(
        self, x_BxLxD: jax.Array, angles_BxLxH2: jax.Array, segment_ids_BxL: jax.Array
    ) -> jax.Array:
        x_BxLxD += self.attention(self.attention_norm(x_BxLxD), angles_BxLxH2, segment_ids_BxL)
        x_BxLxD += self.mlp(self.mlp_norm(x_BxLxD))
        return x_BxLxD


class Mistral(nnx.Module):
    """The whole model: computed as `Compute` says; softmax, norms and logits in float32."""

    def __init__(self, config: MistralConfig, compute: Compute, rngs: nnx.Rngs) -> None:
        c, padding = config, config.vocab_padding
        self.embed = embedding(c.vocab_size, c.hidden_size, compute, rngs, padding=padding)
        self.layers = layers.stack(partial(Layer, c, compute), rngs, c.num_layers)
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        if not c.tie_embeddings:
            self.lm_head = linear(c.hidden_size, c.vocab_size, compute, rngs, padding=padding)
        self.config, self.compute = c, compute

    def hidden(
        self, tokens_BxL: jax.Array, positions_BxL: jax.Array, segment_ids_BxL: jax.Array
    ) -> jax.Array:
        """What the head makes logits of, (B, L, D) in the dtype of the computation.

        Args:
            tokens_BxL: int32, from 0 to V-1.
            positions_BxL: int32, each token's place in its own segment, from 0.
            segment_ids_BxL: int32; a token sees those of the `sliding_window` before it, itself
                included, that carry the same number. 0 is padding, which sees and is seen by
                nothing.
        """
        c = self.config
        turns = angles(positions_BxL, c.head_dim, c.rope_theta, c.rope_scaling)
        x_BxLxD = lookup(self.embed, tokens_BxL)
        x_BxLxD = layers.run(self.layers, x_BxLxD, turns, segment_ids_BxL, compute=self.compute)
        return self.norm(x_BxLxD)

    def head(self) -> jax.Array:
        """The weights that make logits, (D, V + vocab_padding)."""
        if self.config.tie_embeddings:
            return self.embed.embedding[...].T
        return self.lm_head.kernel[...]


abstract = partial(parts.abstract, Mistral)
# Normal with deviation 0.02, norm scales 1.
initialize = partial(parts.initialize, Mistral)
apply, hidden, count = parts.apply, parts.hidden, parts.count
