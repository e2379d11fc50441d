"""What a train step takes of a chip's memory, and what of it is whose."""

import math
from dataclasses import dataclass
from typing import Any

import jax

from zsg_jax.planning.chips import Chip
from zsg_jax.planning.join import Compiled
from zsg_jax.training.step import FROZEN


@dataclass(frozen=True)
class Memory:
    """Bytes on one chip while a step runs.

    Attributes:
        parameters (frozen ones too), optimizer, batch: as their shardings cut them.
        padding: what the compiler's layout adds to these.
        temporaries: activations kept for the backward pass, gradients, and scratch.
        results: metrics, and whatever of the new state cannot take the old one's place.
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
        return (
            self.parameters
            + self.optimizer
            + self.batch
            + self.padding
            + self.temporaries
            + self.results
            + self.code
        )

    @property
    def fits(self) -> bool:
        """Whether a step may run."""
        return self.total <= self.usable


def shard_bytes(tree: Any) -> int:
    """Bytes of a tree of `jax.ShapeDtypeStruct` with shardings on one chip."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def memory(compiled: Compiled, chip: Chip) -> Memory:
    """The memory of a compiled step, by the compiler's own analysis.

    Of a program that the compiler refused as too large, the temporaries are what its message says
    beyond the state and the batch, or, where it says nothing, all that a chip has.
    """
    state = compiled.trainer.abstract_state
    weights = ("params", FROZEN)
    parameters = shard_bytes([state[name] for name in weights if name in state])
    optimizer = shard_bytes({name: part for name, part in state.items() if name not in weights})
    batch = shard_bytes(compiled.batch())
    known = parameters + optimizer + batch
    usable = int(chip.memory * chip.usable)
    if compiled.step is None:
        needed = max(compiled.needed, chip.memory + 1)
        rest = max(0, needed - known)
        return Memory(parameters, optimizer, batch, 0, rest, 0, 0, usable)
    told: Any = compiled.step.memory_analysis()
    return Memory(
        parameters=parameters,
        optimizer=optimizer,
        batch=batch,
        padding=told.argument_size_in_bytes - known,
        temporaries=told.temp_size_in_bytes,
        results=told.output_size_in_bytes - told.alias_size_in_bytes,
        code=told.generated_code_size_in_bytes,
        usable=usable,
    )


def least_bytes(state: Any) -> int:
    """Bytes of the state on one chip and of gradients as large as its parameters: no less will do.

    Args:
        state: a tree of `jax.ShapeDtypeStruct` with shardings.
    """
    return shard_bytes(state) + shard_bytes(state["params"])
