"""The mesh, and one ordered rule table that says how every array of the state lies on it."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from zsg_jax.models.placement import ROWS, TENSOR
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.jax_defaults import check_defaults
from zsg_jax.runtime.settings import setting

AXES = (*ROWS, TENSOR)

# The first pattern found in an array's path decides. Adam's moments carry their parameter's path,
# so they lie as it does. `fsdp` splits the model's width, the one size that all kernels share;
# `tensor` splits heads, the feed-forward layer and the vocabulary. Arrays under layers/ hold all
# layers, whose axis comes first, under experts/ that of experts second.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"embed/embedding$", PartitionSpec("tensor", "fsdp")),
    (r"position/embedding$", PartitionSpec(None, "fsdp")),
    (r"layers/attention/(q|k|v)/kernel$", PartitionSpec(None, "fsdp", "tensor")),
    (r"layers/attention/(q|k|v)/bias$", PartitionSpec(None, "tensor")),
    (r"layers/attention/o/kernel$", PartitionSpec(None, "tensor", "fsdp")),
    (r"layers/mlp/(gate|up)/kernel$", PartitionSpec(None, "fsdp", "tensor")),
    (r"layers/mlp/(gate|up)/bias$", PartitionSpec(None, "tensor")),
    (r"layers/mlp/down/kernel$", PartitionSpec(None, "tensor", "fsdp")),
    (r"layers/(attention/o|mlp/down)/bias$", PartitionSpec()),
    (r"layers/mlp/router/kernel$", PartitionSpec(None, "fsdp", None)),
    (r"layers/mlp/experts/(gate|up)/bias$", PartitionSpec(None, None, "tensor")),
    (r"layers/(mlp/router/bias|mlp/experts/down/bias|attention/sinks/scale)$", PartitionSpec()),
    (r"layers/mlp/experts/(gate|up)/kernel$", PartitionSpec(None, None, "fsdp", "tensor")),
    (r"layers/mlp/experts/down/kernel$", PartitionSpec(None, None, "tensor", "fsdp")),
    (r"layers/(attention/(q|k|v)|mlp/(gate|up))/lora_a$", PartitionSpec(None, "fsdp", None)),
    (r"layers/(attention/(q|k|v)|mlp/(gate|up))/lora_b$", PartitionSpec(None, None, "tensor")),
    (r"layers/(attention/o|mlp/down)/lora_a$", PartitionSpec(None, "tensor", None)),
    (r"layers/(attention/o|mlp/down)/lora_b$", PartitionSpec(None, None, "fsdp")),
    (
        r"layers/(attention/(q|k|v)|mlp/(gate|up))/kernel/scale$",
        PartitionSpec(None, None, "tensor"),
    ),
    (r"layers/(attention/o|mlp/down)/kernel/scale$", PartitionSpec(None, None, "fsdp")),
    (r"lm_head/kernel$", PartitionSpec("fsdp", "tensor")),
    (r"reward/kernel$", PartitionSpec("fsdp")),
    (r"norm/(scale|bias)$", PartitionSpec()),
    (r"(^|/)(step|count|dropout_key)$", PartitionSpec()),
)

# Which dimension of an array, or of its moments, is the vocabulary, the one that a mesh may pad.
_VOCABULARY = ((re.compile(r"embed/embedding$"), 0), (re.compile(r"lm_head/kernel$"), 1))

# Every array of a batch is split over its sequences.
BATCH = PartitionSpec(ROWS)


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh with the axes `data`, `fsdp` and `tensor`.

    Rows of a batch are split over `data` and `fsdp`, the state over `fsdp` and `tensor`.

    Args:
        data, fsdp, tensor: devices along each axis; one of them may be -1 for all that are left.
        devices: those to lay out; None: all of all processes.

    Raises:
        UserError: if the sizes do not fit the devices at hand, or JAX is told to compute otherwise.
    """
    check_defaults()
    devices = jax.devices() if devices is None else list(devices)
    given = _named(data, fsdp, tensor)
    sizes = mesh_sizes(data, fsdp, tensor, devices=len(devices))
    count = math.prod(sizes.values())
    processes = {device.process_index for device in devices}
    if count > len(devices) or (len(processes) > 1 and count != len(devices)):
        raise UserError(f"{given} asks for {count} devices; {len(devices)} are at hand")
    own = len(devices) // len(processes)
    if len(processes) > 1 and own % sizes["tensor"]:
        raise UserError(
            f"{given}: tensor must divide the {own} devices of a process; sizes that fit: "
            f"{_divisors(own)}"
        )
    laid = np.asarray(devices[:count]).reshape(tuple(sizes.values()))
    return Mesh(laid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _named(*sizes: int) -> str:
    return ", ".join(setting(f"mesh.{axis}", size) for axis, size in zip(AXES, sizes, strict=True))


def mesh_sizes(data: int, fsdp: int, tensor: int, *, devices: int) -> dict[str, int]:
    """The size of each axis on so many devices, with what -1 stands for.

    Raises:
        UserError: a size is none, two are -1, or the others do not divide the devices.
    """
    given = _named(data, fsdp, tensor)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"{given}: sizes are at least 1, and only one may be -1")
    known = math.prod(size for size in sizes.values() if size != -1)
    if free:
        if devices % known:
            raise UserError(
                f"{given}: {known} does not divide the {devices} devices at hand; numbers that do: "
                f"{_divisors(devices)}"
            )
        sizes[free[0]] = devices // known
    return sizes


def row_devices(mesh: Mesh) -> int:
    """Over how many devices the sequences of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def rows_fit(mesh: Mesh, batch_size: int, micro_batch_size: int) -> None:
    """Checks that a step's sequences divide over micro-batches, and those over the mesh.

    Raises:
        UserError: naming micro-batch sizes that would fit.
    """
    unit = row_devices(mesh)
    if batch_size % micro_batch_size or micro_batch_size % unit:
        if batch_size % unit:
            below = batch_size - batch_size % unit
            near = f"{below} or {below + unit}" if below else f"{unit}"
            raise UserError(
                f"{setting('training.batch_size', batch_size)} must be a multiple of the {unit} "
                f"devices that {setting('mesh.data')} and {setting('mesh.fsdp')} make; the "
                f"nearest that fit: {near}"
            )
        sizes = _divisors(batch_size // unit, unit)
        raise UserError(
            f"{setting('training.micro_batch_size', micro_batch_size)} must divide "
            f"{setting('training.batch_size', batch_size)} and be a multiple of the {unit} "
            f"devices that {setting('mesh.data')} and {setting('mesh.fsdp')} make; sizes that "
            f"fit: {sizes}"
        )


def heads_fit(mesh: Mesh, heads: int) -> None:
    """Checks that `heads`, those of keys and values, divide over `tensor`.

    Raises:
        UserError: naming sizes that would fit.
    """
    if heads % mesh.shape[TENSOR]:
        raise UserError(
            f"{setting('mesh.tensor', mesh.shape[TENSOR])} does not divide the {heads} heads of "
            f"keys and values of the model; sizes that fit: {_divisors(heads)}"
        )


def _divisors(number: int, times: int = 1) -> str:
    """All numbers that divide a number, each multiplied, for a message."""
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return ", ".join(str(n * times) for n in sorted({*low, *(number // n for n in low)}))


def path_name(path: tuple[Any, ...]) -> str:
    """A tree path as `params/layers/mlp/up/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every array in `tree` (arrays or shapes), by `RULES`.

    Raises:
        ValueError: naming a path that no rule matches; a new parameter needs a rule.
        UserError: naming an array whose size does not divide over its mesh axis.
    """

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        # A packed kernel's codes lie as the kernel does, its scales as what is split by outputs.
        name = path_name(path).replace("kernel/codes", "kernel")
        spec = next((spec for pattern, spec in RULES if re.search(pattern, name)), None)
        if spec is None:
            raise ValueError(f"no sharding rule matches {name!r} {leaf.shape}; add one to RULES")
        if len(spec) > len(leaf.shape):
            raise ValueError(f"the rule for {name!r} asks {spec} of its shape {leaf.shape}")
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                raise UserError(
                    f"{setting(f'mesh.{axis}', mesh.shape[axis])} does not divide a dimension of "
                    f"{size} of {name}; sizes that fit: {_divisors(math.gcd(size, mesh.size))}"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def vocabulary_padding(vocab_size: int, mesh: Mesh) -> int:
    """Rows that the tables need besides `vocab_size` for `RULES` to split them evenly."""
    return -vocab_size % mesh.shape[TENSOR]


def differ_in_padding(name: str, one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes of the array at a path are the same on meshes that pad it otherwise."""
    padded = {axis for pattern, axis in _VOCABULARY if pattern.search(name)}
    return len(one) == len(other) and all(
        a == b or axis in padded for axis, (a, b) in enumerate(zip(one, other, strict=True))
    )


def place_own(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """As `place_batch`, of a batch that every process holds whole: each puts its own sequences."""
    count, index = jax.process_count(), jax.process_index()
    return place_batch(
        {
            name: rows[len(rows) // count * index : len(rows) // count * (index + 1)]
            for name, rows in batch.items()
        },
        mesh,
    )


def place_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's sequences of a batch on its devices, as its part of the global batch."""
    sharding = NamedSharding(mesh, BATCH)
    # This is the transfer that is meant, where others are forbidden.
    with jax.transfer_guard("allow"):
        return {
            name: jax.make_array_from_process_local_data(sharding, rows)
            for name, rows in batch.items()
        }


def compile_by_rows(
    step: Callable[[Any, Any], Any], abstract_params: Any, batch: Any, mesh: Mesh
) -> jax.stages.Compiled:
    """Compiles a function of parameters and a batch, whose results every device then has.

    Args:
        step: the function.
        abstract_params: shapes and shardings of the parameters.
        batch: one, or the shapes of one; split over its sequences.
        mesh: that it is computed on.
    """
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract_params)
    rows, everywhere = NamedSharding(mesh, BATCH), NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(step, in_shardings=(where, rows), out_shardings=everywhere)
    with jax.set_mesh(mesh):
        return jitted.lower(abstract_params, batch).compile()
