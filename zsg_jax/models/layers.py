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


def stack(make: Callable[[], nnx.Module], count: int) -> Any:
    """`count` layers, each as `make` makes it, as one module with arrays of shape (count, …)."""
    graphdef, first = nnx.split(make())
    states = [first, *(nnx.split(make())[1] for _ in range(count - 1))]
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))


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
