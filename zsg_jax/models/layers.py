"""What language models are built of, and a model's layers as one.

Each array of the layers has a leading axis, and they are computed one after the other: so the
compiler sees a layer once, however many there are, and a state holds few, large arrays.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models.placement import REMAT, TENSOR, Compute, constrain, constrain_rows

# Models of so many layers are compiled layer by layer, which a CPU computes sooner; of more, as a
# loop over them, which compiles sooner.
UNROLLED = 8


class RMSNorm(nnx.Module):
    """Root-mean-square norm (arXiv 1910.07467), computed in float32.

    Its numbers are multiplied by `scale`; with `offset`, as Gemma has it, by 1 + `scale`.
    """

    def __init__(self, width: int, eps: float, *, offset: bool = False) -> None:
        self.scale = nnx.Param(jnp.full(width, 0.0 if offset else 1.0, jnp.float32))
        self.eps, self.offset = eps, offset

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes the last axis; the dtype of `x` comes back."""
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        scale = 1.0 + self.scale[...] if self.offset else self.scale[...]
        return (y * scale).astype(x.dtype)


def product(x: jax.Array, kernel: jax.Array, *_: Any, **options: Any) -> jax.Array:
    """(…, D) times (D, F) is (…, F), with the options of `jax.lax.dot_general`.

    Of float32, leading axes are one axis in it: for XLA's CPU compiler the gradient of the kernel
    is then a plain matrix product, to the bit the same in half the time. Of bfloat16 it has none.
    """
    rows = x.reshape(-1, x.shape[-1]) if x.dtype == jnp.float32 else x
    y = jax.lax.dot_general(rows, kernel, (((rows.ndim - 1,), (0,)), ((), ())), **options)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


def linear(
    inputs: int,
    outputs: int,
    compute: Compute,
    rngs: nnx.Rngs,
    *,
    bias: bool = False,
    deviation: float = 0.02,
    padding: int = 0,
) -> nnx.Linear:
    """A dense layer: normal weights of this deviation, a bias of 0 if any.

    `padding` outputs of weight 0 come after the others, whose weights do not depend on it.
    """

    def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        weights = deviation * jax.random.normal(key, (inputs, outputs), dtype)
        return jnp.pad(weights, ((0, 0), (0, padding)))

    return nnx.Linear(
        inputs,
        outputs + padding,
        use_bias=bias,
        dtype=compute.dtype,
        kernel_init=normal,
        dot_general=product,
        rngs=rngs,
    )


def embedding(
    rows: int, width: int, compute: Compute, rngs: nnx.Rngs, *, padding: int = 0
) -> nnx.Embed:
    """A table of embeddings: normal with deviation 0.02, and `padding` rows of 0 after them."""

    def normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        table = 0.02 * jax.random.normal(key, (rows, width), dtype)
        return jnp.pad(table, ((0, padding), (0, 0)))

    return nnx.Embed(rows + padding, width, dtype=compute.dtype, embedding_init=normal, rngs=rngs)


def lookup(table: nnx.Embed, ids_BxL: jax.Array) -> jax.Array:
    """The rows of a table, (B, L, D) in the dtype of the computation."""
    # Each device looks up its own tokens; of a table that is split by width it is sent the rest.
    rows_VxD = constrain(table.embedding[...].astype(table.dtype), TENSOR, None)
    return constrain_rows(jnp.take(rows_VxD, ids_BxL, axis=0))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


class GatedMLP(nnx.Module):
    """The gated feed-forward layer, SwiGLU or GeGLU (arXiv 2002.05202)."""

    def __init__(
        self,
        width: int,
        inner: int,
        compute: Compute,
        rngs: nnx.Rngs,
        *,
        activation: str = "silu",
    ) -> None:
        self.gate = linear(width, inner, compute, rngs)
        self.up = linear(width, inner, compute, rngs)
        self.down = linear(inner, width, compute, rngs)
        self.activation = activation

    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        return self.down(ACTIVATIONS[self.activation](self.gate(x_BxLxD)) * self.up(x_BxLxD))


def stack(make: Callable[[nnx.Rngs], nnx.Module], rngs: nnx.Rngs, count: int) -> Any:
    """`count` layers as `make` makes one after the other, as one with arrays of shape (count, …).

    Two are traced, however many there are: the first tells how many keys a layer draws. One is
    drawn at a time, for what drawing takes is more than what is drawn.
    """
    stream = rngs.params
    key, drawn = stream.key[...], stream.count[...]
    graphdef, _ = nnx.split(make(rngs))
    each = stream.count[...] - drawn

    def layer(number: jax.Array) -> Any:
        there = nnx.Rngs(key)
        there.params.count[...] = drawn + number * each
        return nnx.split(make(there))[1]

    states = jax.lax.map(layer, jnp.arange(count, dtype=jnp.uint32))
    stream.count[...] = drawn + jnp.uint32(count) * each
    return nnx.merge(graphdef, states)


class Unstacked(NamedTuple):
    """Layers with arrays of their own.

    Attributes:
        graphdef: of each.
        states: of each, the first first.
    """

    graphdef: Any
    states: list[Any]


def unstack(layers: nnx.Module) -> Unstacked:
    """The layers of `stack` one by one, for a loop whose every turn would split them anew."""
    graphdef, state = nnx.split(layers)
    return Unstacked(graphdef, _split(state, jax.tree.leaves(state)[0].shape[0]))


def _split(state: Any, count: int) -> list[Any]:
    # Split once: the gradient of so many slices would add up as many arrays as large as the whole.
    leaves, tree = jax.tree.flatten(state)
    pieces = [jax.lax.split(leaf, (1,) * count) for leaf in leaves]
    return [
        jax.tree.unflatten(tree, [piece[0] for piece in each]) for each in zip(*pieces, strict=True)
    ]


def run(
    layers: nnx.Module | Unstacked,
    call: Callable[[int, Any, Any], Any],
    carry: Any,
    compute: Compute,
    *,
    period: int = 1,
) -> Any:
    """The layers of `stack`, one after the other, each called with what the last gave.

    Args:
        layers: from `stack`; or from `unstack`, whose carry is handed on as it is, arrays or not,
            and of which nothing is computed again.
        call: computes a layer of what the last one gave. Of the layer's number it gets the
            remainder by `period`.
        carry: what the first takes, arrays in any nesting; the others take the same shapes.
        compute: what its backward pass keeps.
        period: how many layers differ in how they are called; after them it starts over.
    """
    if isinstance(layers, Unstacked):
        for number, own in enumerate(layers.states):
            carry = call(number % period, nnx.merge(layers.graphdef, own), carry)
        return carry
    graphdef, state = nnx.split(layers)
    count = jax.tree.leaves(state)[0].shape[0]

    def one(number: int, carry: Any, state: Any) -> Any:
        return call(number, nnx.merge(graphdef, state), carry)

    def layer(prevent_cse: bool) -> Callable[[int, Any, Any], Any]:
        if compute.remat == "none":
            return one
        policy = REMAT[compute.remat]
        return jax.checkpoint(one, policy=policy, prevent_cse=prevent_cse, static_argnums=0)

    def several(carry: Any, state: Any, count: int, *, looped: bool) -> Any:
        # A loop keeps the two computations of a layer apart by itself.
        compute_layer = layer(prevent_cse=not looped)
        for number, own in enumerate(_split(state, count)):
            carry = compute_layer(number % period, carry, own)
        return carry

    if count <= UNROLLED:
        return several(carry, state, count, looped=False)
    if period == 1:
        alone = layer(prevent_cse=False)
        return jax.lax.scan(lambda x, own: (alone(0, x, own), None), carry, state)[0]
    # A loop over as many layers at a time as differ; then those that are left.
    whole = count - count % period
    groups = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, period, *leaf.shape[1:]), state)
    carry = jax.lax.scan(
        lambda x, own: (several(x, own, period, looped=True), None), carry, groups
    )[0]
    if whole == count:
        return carry
    rest = jax.tree.map(lambda leaf: leaf[whole:], state)
    return several(carry, rest, count - whole, looped=False)
