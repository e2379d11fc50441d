"""How a model is computed, and where its activations lie on a mesh.

The mesh is that of `jax.set_mesh` while a step is traced; without one, nothing is said.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec

Params = dict[str, Any]

# What the backward pass finds of a layer's inside: all of it; the results of its matrix products
# with weights, the rest being computed again; or nothing but what went into the layer.
REMAT: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
# What splits the sequences of a batch; and what splits heads, feed-forward and words.
ROWS = ("data", "fsdp")
TENSOR = "tensor"


@dataclass(frozen=True)
class Compute:
    """What changes a model's memory, speed and rounding, and nothing else.

    Attributes:
        dtype: of activations and of the operands of products, and of what devices send each other
            of a layer's gradients; softmax, norms, sums of products and the loss are float32 in any
            case.
        remat: a key of `REMAT`.
        attention: one of `attention.KERNELS`.
    """

    dtype: Any = jnp.float32
    remat: str = "none"
    attention: str = "xla"


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """`x`, its dimensions split over these axes of the mesh, None for a whole one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(ROWS) <= set(mesh.axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def constrain_rows(x: jax.Array) -> jax.Array:
    """`x`, (B, …), split over its sequences alone."""
    return constrain(x, ROWS, *[None] * (x.ndim - 1))


def tensor_devices() -> int:
    """How many devices split the words of the vocabulary."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else dict(mesh.shape).get(TENSOR, 1)


def dividing(size: int, names: tuple[str, ...], mesh: AbstractMesh) -> tuple[str, ...]:
    """Those of the mesh's axes `names` which, one after the other, divide `size`."""
    chosen: tuple[str, ...] = ()
    for name in names:
        if name in mesh.shape and size % mesh.shape[name] == 0:
            chosen += (name,)
            size //= mesh.shape[name]
    return chosen
