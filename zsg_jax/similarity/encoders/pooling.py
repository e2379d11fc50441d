"""From hidden states to an embedding: pooling and the dense layers after it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zsg_jax.models.huggingface.layouts import Layout
from zsg_jax.models.huggingface.weights import Weights
from zsg_jax.runtime.errors import check
from zsg_jax.similarity.encoders.folder import Dense, Recipe

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "Identity": lambda x: x,
    "Tanh": jnp.tanh,
    "GELU": partial(jax.nn.gelu, approximate=False),
    "ReLU": jax.nn.relu,
    "SiLU": jax.nn.silu,
    "Sigmoid": jax.nn.sigmoid,
}


class _Counted(NamedTuple):
    """The tokens that are pooled: which, the rank of each from 1, the last, and how many."""

    mask_BxL: jax.Array
    ranks_BxL: jax.Array
    last_B: jax.Array
    count_B: jax.Array


def pool(
    modes: Sequence[str],
    hidden_BxLxD: jax.Array,
    lengths_B: jax.Array,
    counted_BxL: jax.Array | None = None,
) -> jax.Array:
    """Pools each sequence's hidden states over its first `lengths_B` tokens.

    Args:
        modes: values of `folder.POOLINGS`; their results stand side by side.
        hidden_BxLxD: float32.
        lengths_B: int32; 0 is a row that nobody reads.
        counted_BxL: bool, those of these tokens that are pooled, as if there were no others; None:
            all.

    Returns:
        (B, D · len(modes)) float32.
    """
    places_L = jnp.arange(hidden_BxLxD.shape[1])
    if counted_BxL is None:
        ranks_1xL = jnp.arange(1, len(places_L) + 1, dtype=hidden_BxLxD.dtype)[None]
        mask_BxL = places_L < lengths_B[:, None]
        counted = _Counted(mask_BxL, ranks_1xL, jnp.maximum(lengths_B, 1) - 1, lengths_B)
    else:
        ranks_BxL = jnp.cumsum(counted_BxL, axis=1).astype(hidden_BxLxD.dtype)
        last_B = jnp.max(jnp.where(counted_BxL, places_L, 0), axis=1)
        counted = _Counted(counted_BxL, ranks_BxL, last_B, jnp.sum(counted_BxL, axis=1))
    pooled = [_pool(mode, hidden_BxLxD, counted) for mode in modes]
    return pooled[0] if len(pooled) == 1 else jnp.concatenate(pooled, axis=1)


def _pool(mode: str, hidden_BxLxD: jax.Array, counted: _Counted) -> jax.Array:
    mask_BxL = counted.mask_BxL
    if mode == "cls":
        return hidden_BxLxD[:, 0]
    if mode == "lasttoken":
        last_BxD = jnp.take_along_axis(hidden_BxLxD, counted.last_B[:, None, None], axis=1)[:, 0]
        return jnp.where(counted.count_B[:, None] > 0, last_BxD, 0)
    if mode == "max":
        lowest = jnp.finfo(hidden_BxLxD.dtype).min
        return jnp.max(jnp.where(mask_BxL[..., None], hidden_BxLxD, lowest), axis=1)
    count_B = jnp.maximum(counted.count_B, 1)
    if mode == "weightedmean":
        # Token i of n, from 1, weighs i.
        hidden_BxLxD = hidden_BxLxD * counted.ranks_BxL[..., None]
        count_B = count_B * (count_B + 1) / 2
    if mode == "mean_sqrt_len_tokens":
        count_B = jnp.sqrt(count_B)
    sum_BxD = jnp.sum(jnp.where(mask_BxL[..., None], hidden_BxLxD, 0), axis=1)
    return sum_BxD / count_B[:, None]


def load_heads(recipe: Recipe, width: int) -> tuple[list[Any], int]:
    """The parameters of the dense layers after pooling, and the width of an embedding.

    Args:
        recipe: what comes after pooling.
        width: of hidden states.

    Raises:
        UserError: a file is missing, damaged, or does not fit what comes before.
    """
    width *= len(recipe.pooling)
    loaded: list[Any] = []
    for head in recipe.heads:
        if head is None:
            loaded.append(None)
            continue
        check(
            head.inputs == width,
            f"{head.folder}/config.json: in_features is {head.inputs}, but {width} numbers come "
            "before it; use the files that belong together",
        )
        shapes = {"linear": {"kernel": jax.ShapeDtypeStruct((width, head.outputs), jnp.float32)}}
        if head.bias:
            shapes["linear"]["bias"] = jax.ShapeDtypeStruct((head.outputs,), jnp.float32)
        loaded.append(Weights(head.folder, Layout({"linear": "linear"}), shapes).load(shapes))
        width = head.outputs
    return loaded, min(width, recipe.truncate or width)


def finish(
    heads: Sequence[Dense | None], params: Sequence[Any], truncate: int | None, x_BxD: jax.Array
) -> jax.Array:
    """Dense layers, cutting, and a division by the length: unit embeddings, (B, D) float32."""
    for head, own in zip(heads, params, strict=True):
        if head is None:
            x_BxD = unit(x_BxD)
            continue
        x_BxD = x_BxD @ own["linear"]["kernel"]
        if head.bias:
            x_BxD = x_BxD + own["linear"]["bias"]
        x_BxD = _ACTIVATIONS[head.activation](x_BxD)
    return unit(x_BxD[:, :truncate])


def unit(x_BxD: jax.Array) -> jax.Array:
    """Rows at length one; one of zeros stays."""
    norm_Bx1 = jnp.linalg.norm(x_BxD, axis=1, keepdims=True)
    return x_BxD / jnp.maximum(norm_Bx1, 1e-12)
