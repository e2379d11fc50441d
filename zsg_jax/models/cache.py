"""Keys and values of the tokens seen so far, so that one more token costs one token's work.

Two caches follow one another. While prompts are read, one array holds all layers. Then each layer
has arrays of its own, laid so that one query is compared with all places at once: the prompts come
first, shorter ones with places behind them that nothing sees, and the tokens after them have the
same place in every sequence, so that a step writes in one piece.
Letters in names give shapes: B sequences, L positions, P places of the prompts, S places in all, K
key-value heads, G query heads for each of them, H head width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zsg_jax.models.attention import Mix, attend
from zsg_jax.models.attention.xla import UNSEEN
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.head import soften
from zsg_jax.models.placement import ROWS, TENSOR, constrain


class Cache(NamedTuple):
    """What the layers hand on to one another.

    Attributes:
        k, v: of prompts (layers, B, P, K, H) each; of texts a tuple, for each layer (B, K, H, S)
            and (B, K, S, H). Split over sequences and heads as the mesh splits them.
        layer: the number of the layer at work.
    """

    k: Any
    v: Any
    layer: jax.Array | int = 0


_PROMPTS = (None, ROWS, None, TENSOR, None)
_TEXTS = (ROWS, TENSOR, None, None)


def empty(config: ModelConfig, batch: int, length: int, dtype: Any) -> Cache:
    """A cache of prompts of `length` places, kept in `dtype`."""
    shape = config.num_layers, batch, length, config.num_kv_heads, config.head_dim
    return Cache(*(constrain(jnp.zeros(shape, dtype), *_PROMPTS) for _ in range(2)))


def joined(parts: Sequence[Cache], batch: int, length: int) -> Cache:
    """The cache of texts, from those of prompts one after the other.

    Args:
        parts: of prompts.
        batch: B, at least as many sequences as all parts hold.
        length: S, places in all.
    """

    def laid(arrays: Sequence[jax.Array], order: tuple[int, ...]) -> tuple[jax.Array, ...]:
        whole = jnp.concatenate([_padded(one, 2, length) for one in arrays], axis=1)
        layers = _padded(whole, 1, batch).transpose(order)
        return tuple(constrain(one, *_TEXTS) for one in layers)

    k = laid([part.k for part in parts], (0, 1, 3, 4, 2))
    return Cache(k, laid([part.v for part in parts], (0, 1, 3, 2, 4)))


def _padded(x: jax.Array, axis: int, size: int) -> jax.Array:
    return jnp.pad(x, [(0, size - x.shape[axis] if i == axis else 0) for i in range(x.ndim)])


def prompt(segment_ids_BxL: jax.Array, kernel: str) -> Mix:
    """Mixes whole prompts, which begin at place 0, and fills the cache with them."""

    def mix(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        window: int | None,
        cache: Cache,
        **more: Any,
    ) -> tuple[jax.Array, Cache]:
        def put(kept: jax.Array, new: jax.Array) -> jax.Array:
            start = cache.layer, 0, 0, 0, 0
            new = new[None].astype(kept.dtype)
            return constrain(jax.lax.dynamic_update_slice(kept, new, start), *_PROMPTS)

        out = attend(q, k, v, segment_ids_BxL, window=window, kernel=kernel, **more)
        return out, Cache(put(cache.k, k), put(cache.v, v), cache.layer + 1)

    return mix


def token(lengths_B: jax.Array, prompt: int, number: jax.Array) -> Mix:
    """Mixes one more token of each sequence with those before it, and adds it to the cache.

    For layers that are computed one by one (`model.hidden_with`, unrolled).

    Args:
        lengths_B: tokens of each prompt.
        prompt: P.
        number: () int32, how many tokens have been added before; this one comes to place P + number
            of all sequences.
    """

    def mix(
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        window: int | None,
        cache: Cache,
        softcap: float | None = None,
        sinks_KxG: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        def put(kept: jax.Array, new: jax.Array, axis: int) -> jax.Array:
            start = [prompt + number if i == axis else 0 for i in range(4)]
            written = jax.lax.dynamic_update_slice(kept, new.astype(kept.dtype), start)
            return constrain(written, *_TEXTS)

        layer = int(cache.layer)
        keys = put(cache.k[layer], k.transpose(0, 2, 3, 1), 3)
        values = put(cache.v[layer], v.swapaxes(1, 2), 2)
        seen_BxS = _seen(lengths_B, prompt, number, keys.shape[3], window)
        out = _look(q, keys, values, seen_BxS, softcap, sinks_KxG)
        return out, Cache(_with(cache.k, layer, keys), _with(cache.v, layer, values), layer + 1)

    return mix


def _with(layers: tuple[jax.Array, ...], layer: int, new: jax.Array) -> tuple[jax.Array, ...]:
    return (*layers[:layer], new, *layers[layer + 1 :])


def _seen(
    lengths_B: jax.Array, prompt: int, number: jax.Array, places: int, window: int | None
) -> jax.Array:
    """Which places a token sees, (B, S) bool: its prompt, and what was added, itself included."""
    place_S, lengths_Bx1 = jnp.arange(places), lengths_B[:, None]
    added_S = (place_S >= prompt) & (place_S <= prompt + number)
    seen_BxS = (place_S < lengths_Bx1) | added_S
    if window is None:
        return seen_BxS
    position_BxS = jnp.where(place_S < prompt, place_S, place_S - prompt + lengths_Bx1)
    return seen_BxS & (position_BxS > lengths_Bx1 + number - window)


def _look(
    q_Bx1xKxGxH: jax.Array,
    k_BxKxHxS: jax.Array,
    v_BxKxSxH: jax.Array,
    seen_BxS: jax.Array,
    softcap: float | None,
    sinks_KxG: jax.Array | None,
) -> jax.Array:
    """Attention of one query a sequence to the places it sees; softmax in float32."""
    q = q_Bx1xKxGxH[:, 0] * q_Bx1xKxGxH.shape[-1] ** -0.5
    k, v = k_BxKxHxS.astype(q.dtype), v_BxKxSxH.astype(q.dtype)
    scores = jnp.einsum("bkgh,bkhs->bkgs", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(seen_BxS[:, None, None], soften(scores, softcap), UNSEEN)
    if sinks_KxG is None:
        weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    else:
        held = jnp.broadcast_to(sinks_KxG.astype(jnp.float32)[..., None], (*scores.shape[:-1], 1))
        both = jax.nn.softmax(jnp.concatenate([scores, held], axis=-1), axis=-1)
        weights = both[..., :-1].astype(q.dtype)
    out = jnp.einsum("bkgs,bksh->bkgh", weights, v, preferred_element_type=jnp.float32)
    return out.astype(q.dtype)[:, None]
