"""Where activations lie on a mesh: said at a few places, so that the compiler need not guess.

The mesh is that of `jax.set_mesh` while a step is traced; without one, nothing is said.
"""

import jax
from jax.sharding import PartitionSpec

# The axes that split the rows of a batch; and the one that splits heads, feed-forward and words.
ROWS = ("data", "fsdp")
TENSOR = "tensor"


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """`x`, its dimensions split over these axes of the mesh, None for a whole one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(ROWS) <= set(mesh.axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def constrain_rows(x: jax.Array) -> jax.Array:
    """`x`, (B, …), split over its rows alone."""
    return constrain(x, ROWS, *[None] * (x.ndim - 1))


def tensor_devices() -> int:
    """How many devices split the words of the vocabulary."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else dict(mesh.shape).get(TENSOR, 1)
