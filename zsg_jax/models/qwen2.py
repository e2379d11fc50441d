"""Qwen 2 and 2.5: arXiv 2407.10671 and 2412.15115, in Flax NNX: queries, keys, values have biases.

Letters in names give shapes: B rows, L positions (M when they are keys), D width, V vocabulary,
K key-value heads, N heads, H head width.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models import parts, shapes
from zsg_jax.models.attention import attend_causally, segment_mask
from zsg_jax.models.parts import GatedMLP, RMSNorm, embedding, linear
from zsg_jax.models.rotary import angles, rotate


@dataclass(frozen=True)
class Qwen2Config(shapes.RotaryConfig):
    """The shape of a Qwen 2 or 2.5; raises `UserError` on values that make no model."""

    NAME: ClassVar[str] = "Qwen2"


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
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-06,
    },
    # Qwen 2.5, arXiv 2412.15115; 7,615,616,512 parameters.
    "qwen2_5_7b": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_layers": 28,
        "num_heads": 28,
        "num_kv_heads": 4,
        "head_dim": 128,
        "max_positions": 131072,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-06,
    },
}


def sized(
    name: str, vocab_size: int | None = None, max_positions: int | None = None
) -> Qwen2Config:
    """The config of a named size, as `shapes.sized` makes it."""
    return shapes.sized(Qwen2Config, SIZES, name, vocab_size, max_positions)


class Attention(nnx.Module):
    """Causal self-attention with biases, rotary positions and grouped queries."""

    def __init__(self, config: Qwen2Config, dtype: Any, rngs: nnx.Rngs) -> None:
        c = config
        self.q = linear(c.hidden_size, c.num_heads * c.head_dim, dtype, rngs, bias=True)
        self.k = linear(c.hidden_size, c.num_kv_heads * c.head_dim, dtype, rngs, bias=True)
        self.v = linear(c.hidden_size, c.num_kv_heads * c.head_dim, dtype, rngs, bias=True)
        self.o = linear(c.num_heads * c.head_dim, c.hidden_size, dtype, rngs)
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


class Layer(nnx.Module):
    """One transformer layer, norms before each part."""

    def __init__(self, config: Qwen2Config, dtype: Any, rngs: nnx.Rngs) -> None:
        D = config.hidden_size
        self.attention_norm = RMSNorm(D, config.rms_norm_eps)
        self.attention = Attention(config, dtype, rngs)
        self.mlp_norm = RMSNorm(D, config.rms_norm_eps)
        self.mlp = GatedMLP(D, config.intermediate_size, dtype, rngs)

    def __call__(
        self, x_BxLxD: jax.Array, angles_BxLxH2: jax.Array, mask_BxLxM: jax.Array
    ) -> jax.Array:
        x_BxLxD += self.attention(self.attention_norm(x_BxLxD), angles_BxLxH2, mask_BxLxM)
        x_BxLxD += self.mlp(self.mlp_norm(x_BxLxD))
        return x_BxLxD


class Qwen2(nnx.Module):
    """The whole model: float32 parameters, computed in `dtype`; softmax, norms, logits float32.

    With `remat`, the backward pass computes each layer again instead of keeping what is inside it.
    """

    def __init__(
        self, config: Qwen2Config, *, dtype: Any = jnp.float32, remat: bool = False, rngs: nnx.Rngs
    ) -> None:
        c, rows = config, config.vocab_size + config.vocab_padding
        self.embed = embedding(rows, c.hidden_size, dtype, rngs)
        # A Dict, for string keys; it does not keep their order, so go by number below.
        self.layers = nnx.Dict({str(i): Layer(c, dtype, rngs) for i in range(c.num_layers)})
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        if not c.tie_embeddings:
            self.lm_head = linear(c.hidden_size, rows, dtype, rngs)
        self.config, self.remat = c, remat

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
        turns = angles(positions_BxL, c.head_dim, c.rope_theta, c.rope_scaling)
        mask = segment_mask(segment_ids_BxL)

        layer = nnx.remat(Layer.__call__) if self.remat else Layer.__call__
        x_BxLxD = self.embed(tokens_BxL)
        for i in range(c.num_layers):
            x_BxLxD = layer(self.layers[str(i)], x_BxLxD, turns, mask)
        head_DxV = self.embed.embedding[...].T if c.tie_embeddings else self.lm_head.kernel[...]
        return parts.logits(self.norm(x_BxLxD), head_DxV, c.vocab_size)


abstract = partial(parts.abstract, Qwen2)
# Normal with deviation 0.02, biases 0, norm scales 1.
initialize = partial(parts.initialize, Qwen2)
apply, count = parts.apply, parts.count
