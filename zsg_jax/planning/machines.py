"""The machine that a plan is for: a chip, how many of them, and devices to compile for."""

import importlib.util
import math
import os
import re
from dataclasses import dataclass, replace
from typing import Any

import jax

from zsg_jax.planning.chips import CHIPS, GIB, Chip, chip
from zsg_jax.runtime.errors import UserError, did_you_mean, first_line

# Chips along the sides of a host's block.
_HOST = {"v4": (2, 2, 1), "v5p": (2, 2, 1), "v5e": (2, 2), "v6e": (2, 2)}
# Cloud names count cores on v4 and v5p, two a chip, and chips on the others.
_GRIDS = {
    2: {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    3: {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"},
}
_MOST_SIMULATED = 1024
_HOISTS = "while-loop-invariant-code-motion"


@dataclass(frozen=True)
class Topology:
    """A machine.

    Attributes:
        name: as it was given, such as "v5p:2x2x2" or "h200:8".
        chip_name, chip: which chip; `chip.memory` is that of one.
        shape: chips along each side; one number for GPUs and CPUs.
    """

    name: str
    chip_name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many chips there are."""
        return math.prod(self.shape)


def parse(text: str, memory_gb: float | None = None) -> Topology:
    """A machine by its name.

    Args:
        text: "v5p:2x2x2" (sides), "v5e-16" (as the cloud names it), "h200:8" or "cpu:8" (a count).
        memory_gb: 10^9 bytes of a chip that may be used, instead of the table's.

    Raises:
        UserError: for an unknown chip, or a shape that the chip does not come in.
    """
    name, colon, size = text.strip().lower().partition(":")
    if not colon and (cloud := re.fullmatch(r"(v4|v5e|v5p|v6e)-(\d+)", name)):
        name, size = cloud[1], _grid(text, cloud[1], int(cloud[2]))
    one = _cpu() if name == "cpu" else chip(name)
    numbers = size or "1"
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", numbers):
        raise UserError(f"--topology {text}: {size!r} is no size; give one as {_example(name)}")
    shape = tuple(int(side) for side in numbers.split("x"))
    sides = len(_HOST[name]) if one.kind == "tpu" else 1
    if len(shape) != sides or (one.kind == "tpu" and not size):
        listed = f", such as {_listed(sides)}" if one.kind == "tpu" else ""
        raise UserError(
            f"--topology {text}: {name} has {sides} side{'s' if sides > 1 else ''}; give it as "
            f"{_example(name)}{listed}"
        )
    if one.kind == "tpu" and not _whole_hosts(shape, _HOST[name]):
        raise UserError(
            f"--topology {text}: hosts of {name} are {'x'.join(map(str, _HOST[name]))} chips and "
            f"do not fill it; sizes that do: {_listed(sides)}"
        )
    if one.kind != "tpu" and shape[0] > _MOST_SIMULATED:
        raise UserError(f"--topology {text}: more than {_MOST_SIMULATED} chips; give fewer")
    if name == "cpu":
        # The simulated devices share one memory.
        one = replace(one, memory=one.memory // shape[0])
    if memory_gb is not None:
        if not 0 < memory_gb < math.inf:
            raise UserError(f"--memory-gb {memory_gb}: give a number above 0")
        one = replace(one, memory=int(memory_gb * 1e9), usable=1.0)
    return Topology(f"{name}:{'x'.join(map(str, shape))}", name, one, shape)


def prepare(topology: Topology) -> None:
    """Has this process compile on its CPU; to be called before JAX looks for devices."""
    jax.config.update("jax_platforms", "cpu")
    if topology.chip.kind != "tpu":
        jax.config.update("jax_num_cpu_devices", topology.count)
        if topology.chip.kind == "gpu":
            # The CPU's compiler turns bfloat16 weights to float32, and does it for all layers at
            # once before their loop: copies that no GPU has.
            given = os.environ.get("XLA_FLAGS", "")
            os.environ["XLA_FLAGS"] = f"{given} --xla_disable_hlo_passes={_HOISTS}".strip()
        return
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology {topology.name}: compiling for a TPU takes its compiler; "
            "pip install 'zsg_jax[tpu]' (on a machine without one too)"
        )
    # Off a TPU machine, libtpu would ask the cloud's metadata server what it is, and warn; it takes
    # no device, so other processes may have it loaded too.
    for name, value in (
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_ACCELERATOR_TYPE", f"{topology.chip_name}-{topology.count}"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
    ):
        os.environ.setdefault(name, value)


def devices(topology: Topology) -> list[Any]:
    """The devices to compile for, as many as `topology` has, in JAX's order.

    Raises:
        UserError: if the compiler does not know the machine.
    """
    if topology.chip.kind != "tpu":
        return jax.devices()[: topology.count]
    from jax.experimental import topologies

    host = _HOST[topology.chip_name]
    # Smaller slices are one host that has no more than they.
    bounds = tuple(min(side, most) for side, most in zip(topology.shape, host, strict=True))
    bounds += (1,) * (3 - len(bounds))
    try:
        found = topologies.get_topology_desc(
            platform="tpu",
            topology_name=topology.name,
            # The two cores of a v4 chip as the one device that JAX has there; of others that is so.
            chip_config_name="megacore" if topology.chip_name == "v4" else "default",
            chips_per_host_bounds=bounds,
            num_slices=1,
        ).devices
    except Exception as error:  # the compiler raises several kinds
        raise UserError(
            f"--topology {topology.name}: the compiler knows no such machine: {first_line(error)}"
        ) from None
    if len(found) != topology.count:
        raise UserError(
            f"--topology {topology.name}: the compiler gives it {len(found)} devices, not "
            f"{topology.count}; give another shape"
        )
    return list(found)


def _grid(text: str, name: str, number: int) -> str:
    sides = len(_HOST[name])
    chips = number // 2 if sides == 3 else number
    grids = _GRIDS[sides]
    if chips not in grids or (sides == 3 and number % 2):
        sizes = [f"{name}-{count * (2 if sides == 3 else 1)}" for count in grids]
        raise UserError(
            f"--topology {text}: give the sides, as {_example(name)}, or one of "
            f"{', '.join(sizes)}{did_you_mean(text, sizes)}"
        )
    return grids[chips]


def _whole_hosts(shape: tuple[int, ...], host: tuple[int, ...]) -> bool:
    """Whether hosts fill a slice; one that is part of a host has no side longer than it."""
    if all(side <= most for side, most in zip(shape, host, strict=True)):
        return True
    return all(side % least == 0 for side, least in zip(shape, host, strict=True))


def _listed(sides: int) -> str:
    return ", ".join(_GRIDS[sides].values())


def _example(name: str) -> str:
    return {"v4": "v4:2x2x2", "v5p": "v5p:2x2x2"}.get(
        name, f"{name}:4x4" if name in CHIPS and CHIPS[name].kind == "tpu" else f"{name}:8"
    )


def _cpu() -> Chip:
    """This machine's memory; a CPU's speed is not in any table."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        memory = 16 * GIB
    return Chip("cpu", 0.0, memory, 0.9, 0.0, 0.0)
