"""The plan of an instruction-diversity study: what a stack of cells takes of a chip, and how long.

Cells exchange nothing, so a chip is planned alone: its share of a stack, compiled on this CPU.
"""

import json
from collections import Counter
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from zsg_jax.data.rewriting.forms import Writer
from zsg_jax.data.rewriting.rules import Language
from zsg_jax.diversity.program import Program, model_config
from zsg_jax.diversity.runs import Settings
from zsg_jax.diversity.sweep import stack_size
from zsg_jax.models.families import ModelConfig
from zsg_jax.planning import machines
from zsg_jax.planning.chips import Chip
from zsg_jax.planning.estimate import Memory, Roofline, of_step, roofline
from zsg_jax.planning.report import bytes_text, memory_lines, seconds_text, si
from zsg_jax.runtime import streams
from zsg_jax.runtime.progress import count
from zsg_jax.training import flops
from zsg_jax.workflows import diversity

HOUR = 3600.0


class Part(NamedTuple):
    """The cells of one language, which share a program.

    Attributes:
        cells, stack: how many there are, and how many are computed at once, over all chips.
        length: tokens of a row.
        memory: of a chip while a stack takes steps.
        flops: of the model's products for a stack and step, scoring's share included; of a chip.
        bound: the least time of that; None for a chip without public figures.
        steps: of all stacks together.
    """

    language: Language
    cells: int
    stack: int
    length: int
    memory: Memory
    flops: float
    bound: Roofline | None
    steps: int

    @property
    def hours(self) -> float | None:
        """All stacks one after the other, at least."""
        return None if self.bound is None else self.steps * self.bound.seconds / HOUR


def run(
    config: ConfigDict, machine: str, *, memory_gb: float | None = None, as_json: bool = False
) -> str | None:
    """Plans the study for a machine and prints it to standard output.

    Args:
        config: as `config_diversity.diversity_config` documents it.
        machine: as `machines.parse` takes it.
        memory_gb: 10^9 bytes of each chip that may be used.
        as_json: numbers instead of text.

    Returns:
        None if it fits; else one line that says what would.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    cells, settings = diversity.read(config)
    topology = machines.parse(machine, memory_gb)
    jax.config.update("jax_platforms", "cpu")
    languages = Counter(cell.language(settings.letters) for cell in cells)
    parts = [planned(*one, settings, topology) for one in languages.items()]
    for part in () if as_json else parts:
        streams.show(as_text(part, settings, topology))
    if as_json:
        streams.show(json.dumps([as_tree(part, topology) for part in parts], indent=2))
    largest = max(parts, key=lambda part: part.memory.total)
    if largest.memory.fits:
        return None
    for size in _smaller(largest.stack, topology.count):
        other = replace(settings, stack=size)
        if planned(largest.language, largest.cells, other, topology).memory.fits:
            return f"does not fit {topology.name}; this does: --config.mesh.stack={size}"
    return f"does not fit {topology.name}, nor does one cell a chip; take larger chips"


def planned(
    language: Language, cells: int, settings: Settings, topology: machines.Topology
) -> Part:
    """The plan of so many cells of a language."""
    writer = Writer(settings.form, language)
    model = model_config(settings.model, len(writer.vocabulary), writer.length)
    # A CPU computes a cell a core, as `sweep.plan` has it.
    most = topology.count if topology.chip.kind == "cpu" else settings.stack
    stack = stack_size(cells, most, topology.count)
    own = stack // topology.count
    recipe = settings.recipe
    memory = _memory(model, writer, own, settings, topology.chip)
    # A step's share of the scorings of both sides, of which there is one more at the start.
    scorings = -(-recipe.steps // settings.every) + 1
    scored = 2 * settings.scoring.rows * scorings / recipe.steps
    row = [writer.length]
    needed = own * (
        recipe.batch_size * flops.train(model, row) + scored * flops.forward(model, row)
    )
    state = 2.0 * (memory.parameters + memory.optimizer)
    bound = roofline(topology.chip, needed, state, [])
    steps = -(-cells // stack) * recipe.steps
    return Part(language, cells, stack, writer.length, memory, needed, bound, steps)


def _memory(model: ModelConfig, writer: Writer, own: int, settings: Settings, chip: Chip) -> Memory:
    """The memory of a chip that takes the steps between two scorings of `own` cells at once."""
    recipe = settings.recipe
    mesh = Mesh(np.array(jax.devices()[:1]), ("cells",))
    where = NamedSharding(mesh, PartitionSpec("cells"))
    program = Program(model, recipe, writer.prompt, where)

    def shape(dtype: Any, *sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((own, *sizes), dtype)

    state = program.abstract_state(shape(np.uint32))
    T, B = min(settings.every, recipe.steps), recipe.batch_size
    rows = shape(np.uint8, T, B, writer.length), shape(np.int32, T, B), shape(np.float32, T)
    known = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for tree in (state.params, state.opt_state, rows)
    )
    # The code is this CPU's.
    return replace(of_step(program.compile("train", state, *rows), chip, *known), code=0)


def _smaller(stack: int, chips: int) -> list[int]:
    """Stacks of half as many cells a chip, of a quarter, and so on."""
    own = stack // chips
    return [(own >> i) * chips for i in range(1, own.bit_length())]


def as_text(part: Part, settings: Settings, topology: machines.Topology) -> str:
    """A plan for people to read."""
    one, recipe = part.language, settings.recipe
    stacks = -(-part.cells // part.stack)
    lines = [
        f"{topology.name}: {count(part.cells, 'cell')} of lengths {one.x}/{one.y}/{one.z} in "
        f"{count(stacks, 'stack')} of {part.stack}, {part.stack // topology.count} a chip",
        f"step: {recipe.batch_size} rows of {part.length} tokens a cell; {recipe.steps:,} steps, "
        f"scored every {settings.every:,}",
        "an estimate: compiled for this CPU, whose compiler fuses and schedules otherwise",
        *memory_lines(part.memory, topology.chip),
        "",
        "work of a chip and step, scoring's share included",
        f"  the models' products         {si(part.flops)}FLOP",
        f"  states, read and written     "
        f"{bytes_text(2 * (part.memory.parameters + part.memory.optimizer))}",
    ]
    if part.bound is None or part.hours is None:
        return "\n".join([*lines, "", "no time: there is no public figure of this chip's speed"])
    return "\n".join(
        [
            *lines,
            "",
            "least time, by public figures; models so small stay far above it",
            f"  bound by {part.bound.bound}: {seconds_text(part.bound.seconds)} a step, "
            f"{part.hours:.3g} hours for all cells",
        ]
    )


def as_tree(part: Part, topology: machines.Topology) -> dict[str, Any]:
    """All numbers of a plan, in bytes, seconds and FLOP of one chip and step."""
    memory = asdict(part.memory)
    return {
        "topology": topology.name,
        "chips": topology.count,
        "language": part.language._asdict(),
        "cells": part.cells,
        "stack": part.stack,
        "length": part.length,
        "memory": memory | {"total": part.memory.total},
        "fits": part.memory.fits,
        "model_flops": part.flops,
        "steps": part.steps,
        "seconds": None if part.bound is None else part.bound.seconds,
        "hours": part.hours,
    }
