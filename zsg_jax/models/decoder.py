"""The decoder of Llama and its kin, in Flax NNX; a config holds what they differ in.

Llama: arXiv 2302.13971, 2307.09288 and 2407.21783; Mistral 2310.06825; Qwen 2407.10671, 2412.15115
and 2505.09388; Gemma 2408.00118 and 2503.19786; OLMo 2501.00656; Phi 2404.14219. Letters in names
give shapes: B sequences, L positions, D width, V vocabulary, K key-value heads, N heads, H head
width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models.attention import Mix
from zsg_jax.models.checks import check_divides, check_fields
from zsg_jax.models.experts import MoE, Routing
from zsg_jax.models.head import Head
from zsg_jax.models.layers import (
    ACTIVATIONS,
    GatedMLP,
    RMSNorm,
    Unstacked,
    embedding,
    linear,
    lookup,
    run,
    stack,
)
from zsg_jax.models.placement import Compute, constrain_rows
from zsg_jax.models.rotary import RopeScaling, amplitude, angles, rotate
from zsg_jax.runtime.errors import check


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder; raises `UserError` on values that make no model.

    Attributes:
        family: a key of `families.FAMILIES`, whose names its weights have; computes nothing.
        attention_bias: whether queries, keys and values have biases.
        output_bias: whether what attention gives has one.
        sinks: whether each head has a score for a place that holds nothing.
        qk_norm: whether queries and keys are normalized, head by head.
        qk_norm_joint: whether they are normalized all heads together instead.
        pre_norm, post_norm: whether a norm stands before each part of a layer, and after it.
        norm_offset: whether norms multiply by 1 + their scale.
        activation: of the feed-forward layer, one of `layers.ACTIVATIONS`.
        scale_embeddings: whether embeddings are multiplied by the root of their width.
        query_scalar: scores of attention are divided by its root; None: by that of `head_dim`.
        attention_softcap, logit_softcap: c, where scores or logits are c · tanh(x / c).
        causal: whether a token sees none after itself; of an encoder's, it may see them too.
        windows: how many tokens each layer's queries see at most, themselves included; None: all
            before them. Repeated over the layers: layer i has windows[i % len(windows)].
        rope_layers: which layers have rotary positions, repeated as `windows` are.
        rope_share: of a head's numbers, from the first on, those that positions turn.
        local_rope_theta: of layers with a window, whose positions are not scaled; None: they are as
            the others.
        routing: of a model whose layers have experts; `intermediate_size` is then that of each.
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
    output_bias: bool = False
    sinks: bool = False
    qk_norm: bool = False
    qk_norm_joint: bool = False
    pre_norm: bool = True
    post_norm: bool = False
    norm_offset: bool = False
    activation: str = "silu"
    scale_embeddings: bool = False
    query_scalar: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    causal: bool = True
    windows: tuple[int | None, ...] = (None,)
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rope_layers: tuple[bool, ...] = (True,)
    rope_share: float = 1.0
    local_rope_theta: float | None = None
    rms_norm_eps: float = 1e-5
    tie_embeddings: bool = False
    routing: Routing | None = None
    vocab_padding: int = 0

    def __post_init__(self) -> None:
        check_fields(self.family, self)
        check_divides(self.family, self, "num_heads", "num_kv_heads")
        check(
            self.head_dim % 2 == 0 and self.turned % 2 == 0,
            f"{self.family}: head_dim={self.head_dim} and rope_share={self.rope_share} turn an odd "
            "number of numbers; rotary positions need an even one",
        )
        check(
            self.activation in ACTIVATIONS,
            f"{self.family}: activation={self.activation!r} is none of {', '.join(ACTIVATIONS)}",
        )
        check(
            self.pre_norm or self.post_norm,
            f"{self.family}: pre_norm and post_norm are False; give one of them",
        )
        check(
            bool(self.rope_layers) and not (self.qk_norm and self.qk_norm_joint),
            f"{self.family}: rope_layers is empty, or qk_norm and qk_norm_joint are both True",
        )
        wrong = [w for w in self.windows if w is not None and (type(w) is not int or w < 1)]
        check(
            bool(self.windows) and not wrong,
            f"{self.family}: windows={self.windows!r}; give whole numbers above 0, or None for all",
        )

    @property
    def turned(self) -> int:
        """How many numbers of a head are turned by rotary positions."""
        return int(self.head_dim * self.rope_share)

    @property
    def period(self) -> int:
        """After how many layers they are called the same again."""
        return math.lcm(len(self.windows), len(self.rope_layers))

    def norm(self, width: int) -> RMSNorm:
        """A norm of the model."""
        return RMSNorm(width, self.rms_norm_eps, offset=self.norm_offset)

    def build(self, compute: Compute, rngs: nnx.Rngs) -> "Decoder":
        """The module with random weights: normal with deviation 0.02, biases 0, norms by 1."""
        return Decoder(self, compute, rngs)


# Turns queries or keys by their positions.
Turn = Callable[[jax.Array], jax.Array]


class Sinks(nnx.Module):
    """Of each head the score of a place that holds nothing (arXiv 2309.17453); normal, 0.02."""

    def __init__(self, heads: int, rngs: nnx.Rngs) -> None:
        self.scale = nnx.Param(0.02 * jax.random.normal(rngs.params(), (heads,)))


class Attention(nnx.Module):
    """Causal self-attention with rotary positions and grouped queries."""

    def __init__(self, config: DecoderConfig, compute: Compute, rngs: nnx.Rngs) -> None:
        c, bias = config, config.attention_bias
        self.q = linear(c.hidden_size, c.num_heads * c.head_dim, compute, rngs, bias=bias)
        self.k = linear(c.hidden_size, c.num_kv_heads * c.head_dim, compute, rngs, bias=bias)
        self.v = linear(c.hidden_size, c.num_kv_heads * c.head_dim, compute, rngs, bias=bias)
        self.o = linear(c.num_heads * c.head_dim, c.hidden_size, compute, rngs, bias=c.output_bias)
        if c.sinks:
            self.sinks = Sinks(c.num_heads, rngs)
        if c.qk_norm:
            self.q_norm, self.k_norm = c.norm(c.head_dim), c.norm(c.head_dim)
        if c.qk_norm_joint:
            self.q_norm = c.norm(c.num_heads * c.head_dim)
            self.k_norm = c.norm(c.num_kv_heads * c.head_dim)
        self.config = c

    def __call__(
        self,
        x_BxLxD: jax.Array,
        turn: Turn,
        mix: Mix,
        window: int | None,
        memory: Any,
    ) -> tuple[jax.Array, Any]:
        c, (B, L, _) = self.config, x_BxLxD.shape
        K, H = c.num_kv_heads, c.head_dim
        q, k = self.q(x_BxLxD), self.k(x_BxLxD)
        if c.qk_norm_joint:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = q.reshape(B, L, -1, H), k.reshape(B, L, K, H)
        if c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = turn(q), turn(k)
        v = self.v(x_BxLxD).reshape(B, L, K, H)
        q = q.reshape(B, L, K, -1, H)
        if c.query_scalar is not None and c.query_scalar != H:
            # Attention divides by the root of H.
            q *= (H / c.query_scalar) ** 0.5
        more: dict[str, Any] = {}
        if c.attention_softcap is not None:
            more["softcap"] = c.attention_softcap
        if not c.causal:
            more["causal"] = False
        if c.sinks:
            more["sinks_KxG"] = self.sinks.scale[...].reshape(K, -1)
        mixed, memory = mix(q, k, v, window, memory, **more)
        return self.o(mixed.reshape(B, L, -1)), memory


class Layer(nnx.Module):
    """One transformer layer, norms before each part, or after it, or both."""

    def __init__(self, config: DecoderConfig, compute: Compute, rngs: nnx.Rngs) -> None:
        c, D = config, config.hidden_size
        if c.pre_norm:
            self.attention_norm = c.norm(D)
        self.attention = Attention(config, compute, rngs)
        if c.pre_norm:
            self.mlp_norm = c.norm(D)
        inner, act = c.intermediate_size, c.activation
        self.mlp: GatedMLP | MoE
        if c.routing is None:
            self.mlp = GatedMLP(D, inner, compute, rngs, activation=act)
        else:
            self.mlp = MoE(D, inner, c.routing, compute, rngs, activation=act)
        if c.post_norm:
            self.attention_post_norm, self.mlp_post_norm = c.norm(D), c.norm(D)
        self.config = c

    def __call__(
        self,
        x_BxLxD: jax.Array,
        turn: Turn,
        mix: Mix,
        window: int | None,
        memory: Any,
    ) -> tuple[jax.Array, Any]:
        c = self.config
        into = self.attention_norm(x_BxLxD) if c.pre_norm else x_BxLxD
        added, memory = self.attention(into, turn, mix, window, memory)
        x_BxLxD += self.attention_post_norm(added) if c.post_norm else added
        added = self.mlp(self.mlp_norm(x_BxLxD) if c.pre_norm else x_BxLxD)
        x_BxLxD += self.mlp_post_norm(added) if c.post_norm else added
        return constrain_rows(x_BxLxD), memory


class Decoder(nnx.Module):
    """The whole model: computed as `Compute` says; softmax, norms and logits in float32."""

    def __init__(self, config: DecoderConfig, compute: Compute, rngs: nnx.Rngs) -> None:
        c, padding = config, config.vocab_padding
        self.embed = embedding(c.vocab_size, c.hidden_size, compute, rngs, padding=padding)
        self.layers = stack(partial(Layer, c, compute), rngs, c.num_layers)
        self.norm = c.norm(c.hidden_size)
        if not c.tie_embeddings:
            self.lm_head = linear(c.hidden_size, c.vocab_size, compute, rngs, padding=padding)
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

        Args:
            tokens_BxL, positions_BxL: as `model.apply` takes them.
            mix, memory: what every layer mixes by, and what the first is handed.
            layers: those of this model, one by one; None: as they are.
        """
        x, memory = self.stream(tokens_BxL, positions_BxL, mix, memory, layers)
        return self.norm(x), memory

    def stream(
        self,
        tokens_BxL: jax.Array,
        positions_BxL: jax.Array,
        mix: Mix,
        memory: Any = None,
        layers: Unstacked | None = None,
    ) -> tuple[jax.Array, Any]:
        """As `hidden`, before the last norm: what the last layer gives."""
        c = self.config
        turns = _turns(c, positions_BxL)

        def layer(number: int, one: Layer, carry: Any) -> Any:
            window = c.windows[number % len(c.windows)]
            turn = turns(window) if c.rope_layers[number % len(c.rope_layers)] else _as_it_is
            return one(carry[0], turn, mix, window, carry[1])

        x = lookup(self.embed, tokens_BxL)
        if c.scale_embeddings:
            x *= jnp.asarray(math.sqrt(c.hidden_size), x.dtype)
        carry = x, memory
        return run(layers or self.layers, layer, carry, self.compute, period=c.period)

    def head(self) -> Head:
        """What makes logits."""
        c = self.config
        kernel = self.embed.embedding[...].T if c.tie_embeddings else self.lm_head.kernel[...]
        return Head(kernel, c.logit_softcap)


def _turns(config: DecoderConfig, positions_BxL: jax.Array) -> Callable[[int | None], Turn]:
    """How layers of a window turn queries and keys at these positions."""
    c = config
    turned = angles(positions_BxL, c.turned, c.rope_theta, c.rope_scaling)
    whole = partial(rotate, angles_BxLxH2=turned, by=amplitude(c.rope_scaling))
    if c.local_rope_theta is None:
        return lambda window: whole
    near = angles(positions_BxL, c.turned, c.local_rope_theta)
    return lambda window: whole if window is None else partial(rotate, angles_BxLxH2=near)


def _as_it_is(x: jax.Array) -> jax.Array:
    return x
