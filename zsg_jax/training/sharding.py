"""The mesh, and one ordered rule table that says how every array of the state lies on it."""

import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zsg_jax.errors import UserError

AXES = ("data", "fsdp")

# The first pattern found in an array's path decides. Adam's moments carry their parameter's path,
# so they lie as it does. Only the model's width is split, the one size all these arrays share.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(embed|position)/embedding$", PartitionSpec(None, "fsdp")),
    (r"attention/(q|k|v)/kernel$", PartitionSpec("fsdp", None)),
    (r"attention/o/kernel$", PartitionSpec(None, "fsdp")),
    (r"mlp/(gate|up)/kernel$", PartitionSpec("fsdp", None)),
    (r"mlp/down/kernel$", PartitionSpec(None, "fsdp")),
    (r"lm_head/kernel$", PartitionSpec("fsdp", None)),
    (r"norm/(scale|bias)$", PartitionSpec()),
    (r"(attention|mlp)/\w+/bias$", PartitionSpec()),
    (r"(^|/)(step|count)$", PartitionSpec()),
)

# Every array of a batch is split over its rows.
BATCH = PartitionSpec(AXES)


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """A mesh with axes `data` (whole copies of the state) and `fsdp` (the state split).

    Args:
        data, fsdp: devices along each axis; one of them may be -1 for all that are left.

    Raises:
        UserError: if the sizes do not fit the devices at hand.
    """
    devices = jax.devices()
    sizes = [data, fsdp]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(
            f"mesh.data={data}, mesh.fsdp={fsdp}: sizes are at least 1, and only one may be -1"
        )
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
        if len(devices) % known:
            raise UserError(
                f"mesh.data={data}, mesh.fsdp={fsdp}: {known} does not divide the "
                f"{len(devices)} devices at hand"
            )
        sizes[sizes.index(-1)] = len(devices) // known
    count = math.prod(sizes)
    if count > len(devices) or (jax.process_count() > 1 and count != len(devices)):
        raise UserError(
            f"mesh.data={data}, mesh.fsdp={fsdp} asks for {count} devices; "
            f"{len(devices)} are at hand"
        )
    return Mesh(
        np.asarray(devices[:count]).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )


def rows_fit(mesh: Mesh, batch_size: int, micro_batch_size: int) -> None:
    """Checks that a step's rows divide over micro-batches, and those over the mesh.

    Raises:
        UserError: naming micro-batch sizes that would fit.
    """
    fitting = [
        size
        for size in range(1, batch_size + 1)
        if batch_size % size == 0 and size % mesh.size == 0
    ]
    if micro_batch_size not in fitting:
        sizes = ", ".join(map(str, fitting)) or "none with this batch_size"
        raise UserError(
            f"training.micro_batch_size={micro_batch_size} must divide training.batch_size="
            f"{batch_size} and be a multiple of the mesh's {mesh.size} devices; sizes that fit: "
            f"{sizes}"
        )


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as `params/layers/0/mlp/up/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every array in `tree` (arrays or shapes), by `RULES`.

    Raises:
        ValueError: naming a path that no rule matches; a new parameter needs a rule.
        UserError: naming an array whose size does not divide over its mesh axis.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = path_name(path)
        spec = next((spec for pattern, spec in RULES if re.search(pattern, name)), None)
        if spec is None:
            raise ValueError(f"no sharding rule matches {name!r} {leaf.shape}; add one to RULES")
        if len(spec) > len(leaf.shape):
            raise ValueError(f"the rule for {name!r} asks {spec} of its shape {leaf.shape}")
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                fits = [n for n in range(1, mesh.size + 1) if size % n == 0]
                raise UserError(
                    f"mesh.{axis}={mesh.shape[axis]} does not divide a dimension of {size} of "
                    f"{name}; sizes that fit: {', '.join(map(str, fits))}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def vocabulary_padding(vocab_size: int, mesh: Mesh) -> int:
    """Rows that the vocabulary's tables need besides `vocab_size` for `RULES` to split them evenly.

    None for as long as the rules split the model's width alone.
    """
    devices = 1
    for name, dimension in (("params/embed/embedding", 0), ("params/lm_head/kernel", 1)):
        spec = next(spec for pattern, spec in RULES if re.search(pattern, name))
        axis = spec[dimension] if dimension < len(spec) else None
        devices = math.lcm(devices, 1 if axis is None else mesh.shape[axis])
    return -vocab_size % devices


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch on its devices, as its part of the global batch."""
    sharding = NamedSharding(mesh, BATCH)
    # This is the transfer that is meant, where others are forbidden.
    with jax.transfer_guard("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in batch.items()
        }
