"""What a train step takes of a machine that is not here, from the compiler's own analysis of it."""

import math
import re
import time
from dataclasses import astuple, dataclass
from typing import Any

import jax

from zsg_jax.planning.chips import GIB, Chip
from zsg_jax.planning.collectives import Exchanges, collectives
from zsg_jax.planning.machines import Topology
from zsg_jax.training import flops
from zsg_jax.training.step import FROZEN
from zsg_jax.training.trainer import Trainer

DAY = 86_400.0


@dataclass(frozen=True)
class StepShape:
    """A step of a run of `total` steps: `rows` sequences of `length` tokens in `micro_batches`."""

    rows: int
    length: int
    micro_batches: int
    total: int


@dataclass(frozen=True)
class Memory:
    """Bytes on one chip while a step runs.

    Attributes:
        parameters (frozen ones too), optimizer, batch: as their shardings cut them.
        padding: what the compiler's layout adds to these.
        temporaries: activations kept for the backward pass, gradients, and scratch.
        results: metrics, and whatever of the new state cannot replace the old one in place.
        code: the program itself, where it lies on the chip.
        usable: bytes of the chip that a step may take.
    """

    parameters: int
    optimizer: int
    batch: int
    padding: int
    temporaries: int
    results: int
    code: int
    usable: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(astuple(self)) - self.usable

    @property
    def fits(self) -> bool:
        """Whether a step may run."""
        return self.total <= self.usable


@dataclass(frozen=True)
class Roofline:
    """The least seconds that a step needs for each, were it alone."""

    compute: float
    memory: float
    exchange: float

    @property
    def seconds(self) -> float:
        """Of a step in which all three overlap wholly."""
        return max(self.compute, self.memory, self.exchange)

    @property
    def bound(self) -> str:
        """Which of them it is."""
        return max(("compute", "memory", "exchange"), key=lambda name: getattr(self, name))


@dataclass(frozen=True)
class Work:
    """What one chip does in a step.

    Attributes:
        flops: of the model's formula (`training.flops`), nothing computed again.
        state_bytes: those of the state, read once and written once.
        compiler_flops, compiler_bytes: the compiler's own count, which takes each loop's body once.
        exchanges: by kind.
        bound: the roofline; None for a chip without public figures.
    """

    flops: float
    state_bytes: float
    compiler_flops: float
    compiler_bytes: float
    exchanges: tuple[Exchanges, ...]
    bound: Roofline | None


@dataclass(frozen=True)
class Estimate:
    """A plan of one trainer and step on one machine.

    Attributes:
        seconds: that compiling took.
        work: None where the compiler refused the program as too large.
    """

    topology: Topology
    trainer: Trainer
    shape: StepShape
    seconds: float
    memory: Memory
    work: Work | None


def estimate(trainer: Trainer, shape: StepShape, topology: Topology) -> Estimate:
    """Compiles the trainer's own step for the devices of its mesh, and says what it takes."""
    started = time.perf_counter()
    step, needed = compile_step(trainer, shape)
    seconds = time.perf_counter() - started
    taken = memory(trainer, shape, topology.chip, step, needed)
    done = None if step is None else work(trainer, shape, topology, step)
    return Estimate(topology, trainer, shape, seconds, taken, done)


def compile_step(trainer: Trainer, shape: StepShape) -> tuple[jax.stages.Compiled | None, int]:
    """The program, or None and the bytes that the compiler says it takes, 0 if it does not say."""
    try:
        step: Any = trainer.compiled_step(shape.total, shape.length, [shape.rows])
        return step, 0
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, needed_bytes(str(error))


# What the compiler says before and after it has laid out the program, arguments included.
_REFUSALS = (
    r"total memory required for HLO temporaries \(([\d.]+)([KMGT]?)\)",
    r"[Uu]sed ([\d.]+)([KMGT]?)i?B? of [\d.]+[KMGT]?i?B? hbm",
)


def needed_bytes(message: str) -> int:
    """Bytes of memory that a compiler's refusal says a program takes, 0 if it does not say."""
    found = next(filter(None, (re.search(pattern, message) for pattern in _REFUSALS)), None)
    if found is None:
        return 0
    unit = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[found[2]]
    return int(float(found[1]) * unit)


def memory(
    trainer: Trainer, shape: StepShape, chip: Chip, step: jax.stages.Compiled | None, needed: int
) -> Memory:
    """The memory of a compiled step, by the compiler's own analysis.

    Of a program that the compiler refused as too large, the temporaries are what its message says
    beyond the state and the batch, or, where it says nothing, all that a chip has.

    Args:
        step, needed: as `compile_step` gives them.
    """
    state = trainer.abstract_state
    weights = ("params", FROZEN)
    parameters = shard_bytes([state[name] for name in weights if name in state])
    optimizer = shard_bytes({name: part for name, part in state.items() if name not in weights})
    batch = shard_bytes(trainer.abstract_batch(shape.length, shape.rows))
    if step is None:
        rest = max(0, max(needed, chip.memory + 1) - parameters - optimizer - batch)
        usable = int(chip.memory * chip.usable)
        return Memory(parameters, optimizer, batch, 0, rest, 0, 0, usable)
    return of_step(step, chip, parameters, optimizer, batch)


def of_step(
    step: jax.stages.Compiled, chip: Chip, parameters: int, optimizer: int, batch: int
) -> Memory:
    """The memory of a compiled step of which these bytes are known."""
    analysis: Any = step.memory_analysis()
    return Memory(
        parameters=parameters,
        optimizer=optimizer,
        batch=batch,
        padding=analysis.argument_size_in_bytes - parameters - optimizer - batch,
        temporaries=analysis.temp_size_in_bytes,
        results=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
        usable=int(chip.memory * chip.usable),
    )


def work(trainer: Trainer, shape: StepShape, topology: Topology, step: jax.stages.Compiled) -> Work:
    """What a chip does in the compiled step."""
    state = trainer.abstract_state
    needed = flops.train(trainer.model, [shape.length] * shape.rows, frozen=FROZEN in state)
    needed_by_chip = needed / topology.count
    state_bytes = 2.0 * shard_bytes(state)
    exchanges = collectives(step.as_text() or "", topology.count, shape.micro_batches)
    analysis: Any = step.cost_analysis()
    counted = analysis[0] if isinstance(analysis, list) else analysis or {}
    return Work(
        flops=needed_by_chip,
        state_bytes=state_bytes,
        compiler_flops=float(counted.get("flops", 0.0)),
        compiler_bytes=float(counted.get("bytes accessed", 0.0)),
        exchanges=tuple(exchanges),
        bound=roofline(topology.chip, needed_by_chip, state_bytes, exchanges),
    )


def roofline(
    chip: Chip, flops: float, traffic: float, exchanges: list[Exchanges]
) -> Roofline | None:
    """The roofline of one chip; None for a chip without public figures.

    Args:
        flops, traffic: of one chip and step; traffic in bytes.
        exchanges: whose bytes leave over the interconnect, or the network where more chips exchange
            than are wired to one another.
    """
    if not chip.peak:
        return None
    exchange = sum(
        one.sent / (chip.network if chip.wired and one.group > chip.wired else chip.interconnect)
        for one in exchanges
    )
    return Roofline(flops / chip.peak, traffic / chip.bandwidth, exchange)


def days(rows: int, batch_size: int, seconds: float) -> float:
    """Days for `rows` training rows, `batch_size` a step, the last step as long as the others."""
    return -(-rows // batch_size) * seconds / DAY


def shard_bytes(tree: Any) -> int:
    """Bytes of a tree of `jax.ShapeDtypeStruct` with shardings on one chip."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def least_bytes(state: Any) -> int:
    """Bytes of the state on one chip and of gradients as large as its parameters: no less will do.

    Args:
        state: a tree of `jax.ShapeDtypeStruct` with shardings.
    """
    return shard_bytes(state) + shard_bytes(state["params"])
