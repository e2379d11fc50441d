"""A model's layers as one: each of their arrays with a leading axis, computed one after the other.

So the compiler sees a layer once, however many there are, and a state holds few, large arrays.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from zsg_jax.models.compute import REMAT, Compute
from zsg_jax.models.placement import constrain_rows

# Models of so many layers are compiled layer by layer, which a CPU computes sooner; of more, as a
# loop over them, which compiles sooner.
UNROLLED = 8


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


def run(layers: nnx.Module, x_BxLxD: jax.Array, *shared: jax.Array, compute: Compute) -> jax.Array:
    """The layers of `stack`, one after the other, each called with what the last gave.

    Args:
        layers: from `stack`.
        x_BxLxD: what the first takes.
        shared: what every layer takes besides.
        compute: what its backward pass keeps.
    """
    graphdef, state = nnx.split(layers)
    count = jax.tree.leaves(state)[0].shape[0]

    def layer(x_BxLxD: jax.Array, state: Any) -> jax.Array:
        return constrain_rows(nnx.merge(graphdef, state)(x_BxLxD, *shared))

    if compute.remat != "none":
        # A loop keeps the two computations of a layer apart by itself.
        layer = jax.checkpoint(layer, policy=REMAT[compute.remat], prevent_cse=count <= UNROLLED)
    x_BxLxD = constrain_rows(x_BxLxD)
    if count > UNROLLED:
        return jax.lax.scan(lambda x, one: (layer(x, one), None), x_BxLxD, state)[0]
    # Split once: the gradient of so many slices would add up as many arrays as large as the whole.
    leaves, tree = jax.tree.flatten(state)
    pieces = [jax.lax.split(leaf, (1,) * count) for leaf in leaves]
    for each in zip(*pieces, strict=True):
        x_BxLxD = layer(x_BxLxD, jax.tree.unflatten(tree, [piece[0] for piece in each]))
    return x_BxLxD
