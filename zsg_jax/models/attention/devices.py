"""What the kernels share: their place on a mesh, and zeros where there is padding."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from zsg_jax.models.placement import ROWS, TENSOR, dividing


def on_each_device(
    kernel: Callable[..., Any],
    q_BxLxKxGxH: jax.Array,
    k_BxLxKxH: jax.Array,
    v_BxLxKxH: jax.Array,
    seen_BxX: jax.Array,
) -> Any:
    """`kernel` on every device's own sequences and heads.

    What comes back are arrays whose axes are those of `q`, the last ones perhaps left out. `seen`
    says, for each sequence, which keys its queries see: the segment ids, or a mask.

    The compiler cannot split a kernel it does not see into. The mesh is that of `jax.set_mesh`;
    without one, or inside `jax.shard_map`, the kernel is called as it is. Sequences or heads that
    do not divide over their axes are computed by each of its devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.are_all_axes_manual:
        return kernel(q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, seen_BxX)
    B, _, K, _, _ = q_BxLxKxGxH.shape
    split = dividing(B, ROWS, mesh)
    whole = PartitionSpec(split, None, dividing(K, (TENSOR,), mesh))
    return jax.shard_map(
        kernel,
        in_specs=(whole, whole, whole, PartitionSpec(split)),
        out_specs=whole,
        # A kernel does not say along which axes its results vary.
        check_vma=False,
    )(q_BxLxKxGxH, k_BxLxKxH, v_BxLxKxH, seen_BxX)


def without_padding(x_BxLxKxGxH: jax.Array, segment_ids_BxL: jax.Array) -> jax.Array:
    """Zeros where the segment is 0, in value and, by the chain rule, in every gradient."""
    return jnp.where((segment_ids_BxL != 0)[:, :, None, None, None], x_BxLxKxGxH, 0)
