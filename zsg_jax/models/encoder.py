"""The encoders under sentence embeddings, in Flax NNX; a config holds what they differ in.

BERT: arXiv 1810.04805; RoBERTa and XLM-R: 1907.11692, 1911.02116; MPNet: 2004.09297; DistilBERT:
1910.01108; ModernBERT: 2412.13663. Letters in names give shapes: B sequences, L positions (M when
they are keys), D width, N heads, H head width. The activation is the exact gelu; no dropout.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from zsg_jax.models.checks import check_divides, check_fields
from zsg_jax.models.placement import Params
from zsg_jax.models.rotary import angles, rotate

# Of relative positions, as T5 and MPNet have them: tokens from which on all are one bucket.
_FARTHEST = 128


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of an encoder; raises `UserError` on values that make no model.

    Attributes:
        family: what Hugging Face calls its model_type; computes nothing.
        max_positions: tokens of a text at most.
        type_vocab_size: rows of the table of token types; None: there is none.
        padding_token: tokens are counted without those of this number, and their positions begin
            behind it; None: positions begin at 0.
        relative_buckets: buckets of distances that bias attention, by head; None: it has no bias.
        rope_thetas: bases of rotary positions, which stand for a table of positions. Repeated over
            the layers, as windows are.
        windows: how many tokens a token sees at most on either side of itself; None: all.
        norm_first: norms stand before each part, but for the first of all, and after the last.
        gated: the feed-forward layer is gated (GeGLU, arXiv 2002.05202).
        fused: queries, keys and values are one product.
        attention_bias, mlp_bias, norm_bias: which parts have biases.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_positions: int
    type_vocab_size: int | None = None
    padding_token: int | None = None
    relative_buckets: int | None = None
    rope_thetas: tuple[float, ...] = ()
    windows: tuple[int | None, ...] = (None,)
    norm_first: bool = False
    gated: bool = False
    fused: bool = False
    attention_bias: bool = True
    mlp_bias: bool = True
    norm_bias: bool = True
    layer_norm_eps: float = 1e-12

    def __post_init__(self) -> None:
        check_fields(self.family, self)
        check_divides(self.family, self, "hidden_size", "num_heads")

    def norm(self, rngs: nnx.Rngs) -> nnx.LayerNorm:
        """A layer norm."""
        return nnx.LayerNorm(
            self.hidden_size,
            epsilon=self.layer_norm_eps,
            use_bias=self.norm_bias,
            use_fast_variance=False,
            rngs=rngs,
        )


class Attention(nnx.Module):
    """Self-attention of all tokens to all that are no padding and not out of sight."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs) -> None:
        D, bias = config.hidden_size, config.attention_bias
        if config.fused:
            self.qkv = nnx.Linear(D, 3 * D, use_bias=bias, rngs=rngs)
        else:
            self.q = nnx.Linear(D, D, use_bias=bias, rngs=rngs)
            self.k = nnx.Linear(D, D, use_bias=bias, rngs=rngs)
            self.v = nnx.Linear(D, D, use_bias=bias, rngs=rngs)
        self.o = nnx.Linear(D, D, use_bias=bias, rngs=rngs)
        self.config = config

    def __call__(
        self,
        x_BxLxD: jax.Array,
        seen: jax.Array,
        bias_NxLxM: jax.Array | None,
        angles_1xLxH2: jax.Array | None,
    ) -> jax.Array:
        B, L, D = x_BxLxD.shape
        heads = (B, L, self.config.num_heads, D // self.config.num_heads)
        if self.config.fused:
            q, k, v = jnp.split(self.qkv(x_BxLxD), 3, axis=-1)
        else:
            q, k, v = self.q(x_BxLxD), self.k(x_BxLxD), self.v(x_BxLxD)
        q_BxLxNxH, k_BxMxNxH, v_BxMxNxH = q.reshape(heads), k.reshape(heads), v.reshape(heads)
        if angles_1xLxH2 is not None:
            q_BxLxNxH = rotate(q_BxLxNxH, angles_1xLxH2)
            k_BxMxNxH = rotate(k_BxMxNxH, angles_1xLxH2)
        scores = jnp.einsum("blnh,bmnh->bnlm", q_BxLxNxH, k_BxMxNxH) * heads[-1] ** -0.5
        if bias_NxLxM is not None:
            scores = scores + bias_NxLxM
        # The lowest finite number and not -inf: a sequence without a token would make softmax 0/0.
        scores = jnp.where(seen, scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, axis=-1)
        return self.o(jnp.einsum("bnlm,bmnh->blnh", weights, v_BxMxNxH).reshape(B, L, D))


class MLP(nnx.Module):
    """The feed-forward layer."""

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs) -> None:
        D, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.up = nnx.Linear(D, inner * (1 + config.gated), use_bias=bias, rngs=rngs)
        self.down = nnx.Linear(inner, D, use_bias=bias, rngs=rngs)
        self.gated = config.gated

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        x = self.up(x_BxLxD)
        if not self.gated:
            return self.down(jax.nn.gelu(x, approximate=False))
        x, gate = jnp.split(x, 2, axis=-1)
        return self.down(jax.nn.gelu(x, approximate=False) * gate)


class Layer(nnx.Module):
    """One transformer layer."""

    def __init__(self, config: EncoderConfig, number: int, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config, rngs)
        # The embeddings were normalized at once before.
        if number or not config.norm_first:
            self.attention_norm = config.norm(rngs)
        self.mlp = MLP(config, rngs)
        self.mlp_norm = config.norm(rngs)
        self.norm_first, self.first = config.norm_first, number == 0

    def __call__(
        self,
        x_BxLxD: jax.Array,
        seen: jax.Array,
        bias_NxLxM: jax.Array | None,
        angles_1xLxH2: jax.Array | None,
    ) -> jax.Array:
        if not self.norm_first:
            added = self.attention(x_BxLxD, seen, bias_NxLxM, angles_1xLxH2)
            x_BxLxD = self.attention_norm(x_BxLxD + added)
            return self.mlp_norm(x_BxLxD + self.mlp(x_BxLxD))
        normed = x_BxLxD if self.first else self.attention_norm(x_BxLxD)
        x_BxLxD = x_BxLxD + self.attention(normed, seen, bias_NxLxM, angles_1xLxH2)
        return x_BxLxD + self.mlp(self.mlp_norm(x_BxLxD))


class Encoder(nnx.Module):
    """The encoder without a head, in float32."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        c = self.config = config
        self.word = nnx.Embed(c.vocab_size, c.hidden_size, rngs=rngs)
        if not c.rope_thetas:
            before = 0 if c.padding_token is None else c.padding_token + 1
            self.position = nnx.Embed(before + c.max_positions, c.hidden_size, rngs=rngs)
        if c.type_vocab_size is not None:
            self.token_type = nnx.Embed(c.type_vocab_size, c.hidden_size, rngs=rngs)
        if c.relative_buckets is not None:
            self.relative = nnx.Embed(c.relative_buckets, c.num_heads, rngs=rngs)
        self.norm = c.norm(rngs)
        # A Dict, for string keys; it does not keep their order, so go by number below.
        self.layers = nnx.Dict({str(i): Layer(c, i, rngs) for i in range(c.num_layers)})
        if c.norm_first:
            self.last_norm = c.norm(rngs)

    def __call__(
        self, tokens_BxL: jax.Array, mask_BxL: jax.Array, types_BxL: jax.Array | None = None
    ) -> jax.Array:
        """The last hidden states, (B, L, D) float32.

        Args:
            tokens_BxL: int32, from 0 to the vocabulary's end; L is at most `max_positions`.
            mask_BxL: bool or int32, nonzero where a token is and not padding.
            types_BxL: int32 token types; all 0 when left out.
        """
        c, L = self.config, tokens_BxL.shape[1]
        x_BxLxD = self.word(tokens_BxL)
        if c.type_vocab_size is not None:
            types = jnp.zeros_like(tokens_BxL) if types_BxL is None else types_BxL
            x_BxLxD = x_BxLxD + self.token_type(types)
        if not c.rope_thetas:
            x_BxLxD = x_BxLxD + self.position(self._positions(tokens_BxL))
        x_BxLxD = self.norm(x_BxLxD)
        bias = None
        if c.relative_buckets is not None:
            distance_LxM = jnp.asarray(buckets(L, c.relative_buckets))
            bias = jnp.moveaxis(self.relative(distance_LxM), -1, 0)
        places = np.arange(L)
        apart = np.abs(places[:, None] - places)
        for i in range(c.num_layers):
            window = c.windows[i % len(c.windows)]
            seen = (mask_BxL != 0)[:, None, None]
            if window is not None:
                seen = seen & (apart <= window)
            turned = None
            if c.rope_thetas:
                theta = c.rope_thetas[i % len(c.rope_thetas)]
                turned = angles(jnp.arange(L)[None], c.hidden_size // c.num_heads, theta)
            x_BxLxD = self.layers[str(i)](x_BxLxD, seen, bias, turned)
        return self.last_norm(x_BxLxD) if c.norm_first else x_BxLxD

    def _positions(self, tokens_BxL: jax.Array) -> jax.Array:
        padding = self.config.padding_token
        if padding is None:
            return jnp.arange(tokens_BxL.shape[1])
        # A token of this number inside a text has no position of its own, as in fairseq.
        real_BxL = (tokens_BxL != padding).astype(jnp.int32)
        return jnp.cumsum(real_BxL, axis=1) * real_BxL + padding


def buckets(length: int, count: int) -> np.ndarray:
    """The bucket of every distance from a query to a key, (L, M) int64 (arXiv 1910.10683, 2.1).

    Half of `count` are for keys behind; of each half, half are for single distances, and the others
    for ranges that grow as a logarithm does up to `_FARTHEST`.
    """
    distance = np.arange(length) - np.arange(length)[:, None]
    half, single = count // 2, count // 4
    size = np.abs(distance)
    # In float32, as PyTorch computes it: where a range ends hangs on the last digit.
    share = np.log(np.maximum(size, 1).astype(np.float32) / np.float32(single))
    share = share / np.float32(np.log(_FARTHEST / single)) * np.float32(half - single)
    far = np.minimum(single + share.astype(np.int64), half - 1)
    return np.where(size < single, size, far) + half * (distance > 0)


def abstract(config: EncoderConfig) -> tuple[nnx.GraphDef, Params]:
    """The model's definition and the shapes of its parameters, a nested dict; takes no memory."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0))))
    return graphdef, nnx.to_pure_dict(state)


def apply(
    graphdef: nnx.GraphDef,
    params: Params,
    tokens_BxL: jax.Array,
    mask_BxL: jax.Array,
    types_BxL: jax.Array | None = None,
) -> jax.Array:
    """`Encoder.__call__` on a nested dict of parameters: last hidden states, (B, L, D) float32."""
    return nnx.merge(graphdef, params)(tokens_BxL, mask_BxL, types_BxL)
