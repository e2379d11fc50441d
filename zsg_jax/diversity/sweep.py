"""Trains the cells of a grid that have not finished: one a core on a CPU, stacked elsewhere.

Measured on CPUs, a stack of models is slower than one after the other, and a model of this size on
one core wastes less than on several; an accelerator is hardly busy with one.
"""

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from zsg_jax.data.rewriting.forms import Writer
from zsg_jax.diversity.cells import Cell
from zsg_jax.diversity.program import Program, State, model_config
from zsg_jax.diversity.runs import CellRun, Settings, ended, folder_of
from zsg_jax.runtime.jax_defaults import check_defaults
from zsg_jax.runtime.progress import bar, count, duration, say


class Plan(NamedTuple):
    """How cells are computed here.

    Attributes:
        stacked: where each cell of a stack lies; None: cells are computed one by one.
        at_once: cells of a stack, or threads of one cell each.
        sentence: both, for the log and the page.
    """

    stacked: NamedSharding | None
    at_once: int
    sentence: str


def plan(cells: int, stack: int) -> Plan:
    """Decides by the platform how so many cells are computed, `stack` at once at most."""
    check_defaults()
    devices = jax.device_count()
    if jax.default_backend() == "cpu":
        cores = max(1, min(len(os.sched_getaffinity(0)), cells))
        return Plan(None, cores, f"{count(cores, 'cell')} at once, each on one core")
    rows = stack_size(cells, stack, devices)
    mesh = jax.make_mesh((devices,), ("cells",), axis_types=(AxisType.Auto,))
    where = NamedSharding(mesh, PartitionSpec("cells"))
    return Plan(where, rows, f"stacks of {count(rows, 'cell')} over {count(devices, 'device')}")


def stack_size(cells: int, stack: int, devices: int) -> int:
    """How many of so many cells are computed as one array, `stack` at most, over devices."""
    return max(1, min(stack, -(-cells // devices) * devices) // devices) * devices


def run(cells: Sequence[Cell], settings: Settings, workdir: Path, how: Plan | None = None) -> None:
    """Trains the cells that have not finished, each going on from what is kept of it.

    On a CPU a cell's numbers hang on nothing but the cell and the settings. Stacked, they may
    differ in rounding with the number of cells in a stack.

    Args:
        cells: of the grid; those that have finished in `workdir` are left alone.
        settings: what all share.
        workdir: where each has a folder below `runs`.
        how: None: as `plan` decides.

    Raises:
        UserError: a cell asks for what cannot be drawn, or has been trained with other settings,
            before any is trained; or a loss is none.
    """
    pending = [cell for cell in cells if ended(folder_of(workdir, cell), settings) is None]
    if not pending:
        return
    how = how or plan(len(pending), settings.stack)
    runs = [CellRun(cell, settings, workdir) for cell in pending]
    done = len(cells) - len(pending)
    say(f"{count(len(pending), 'cell')} to train, {done} done; {how.sentence}")
    threads = 1 if how.stacked else how.at_once
    steps = sum(settings.recipe.steps - one.step for one in runs)
    with bar(steps, "training", "step") as progress, ThreadPoolExecutor(threads) as pool:
        clock = _Clock(steps, progress)
        futures = {
            pool.submit(_train, group, program, settings, how, clock): group
            for group, program in _groups(runs, settings, how)
        }
        try:
            for future in as_completed(futures):
                future.result()
                for one in futures[future]:
                    done += 1
                    say(_line(one, done, len(cells), clock.left()))
        except BaseException:
            clock.stopped.set()
            for future in futures:
                future.cancel()
            raise


class _Clock:
    """How many steps all cells have taken and have left, and whether they are to stop."""

    def __init__(self, steps: int, progress: Any) -> None:
        self._steps, self._progress, self._taken = steps, progress, 0
        self._started, self._lock = time.perf_counter(), threading.Lock()
        self.stopped = threading.Event()

    def advance(self, steps: int) -> None:
        """Counts steps that were taken."""
        with self._lock:
            self._taken += steps
            self._progress.update(steps)

    def left(self) -> float:
        """Seconds, should the others take as long."""
        a_step = (time.perf_counter() - self._started) / max(self._taken, 1)
        return a_step * (self._steps - self._taken)


def _groups(
    runs: list[CellRun], settings: Settings, how: Plan
) -> list[tuple[list[CellRun], Program]]:
    """Cells that are computed together, and by what: those of a shape that stand at a step."""
    programs: dict[Any, Program] = {}
    alike: dict[Any, list[CellRun]] = {}
    for one in runs:
        # All that decides a program is the language.
        if one.data.language not in programs:
            programs[one.data.language] = _program(one, settings, how)
        alike.setdefault((one.data.language, one.step), []).append(one)
    size = how.at_once if how.stacked else 1
    return [
        (group[at : at + size], programs[language])
        for (language, _), group in alike.items()
        for at in range(0, len(group), size)
    ]


def _line(one: CellRun, done: int, of: int, seconds: float) -> str:
    last = one.records[-1]
    left = f"; about {duration(seconds)} left" if done < of else ""
    return (
        f"{done} of {of} cells: {one.cell.name}: exact match on unseen rules "
        f"{last['unseen_exact']:.3f}, on trained ones {last['seen_exact']:.3f}{left}"
    )


def _program(one: CellRun, settings: Settings, how: Plan) -> Program:
    writer: Writer = one.data.writer
    config = model_config(settings.model, len(writer.vocabulary), writer.length)
    return Program(config, settings.recipe, writer.prompt, how.stacked)


def _train(
    runs: list[CellRun],
    program: Program,
    settings: Settings,
    how: Plan,
    clock: _Clock,
) -> None:
    """Trains cells to their end, which all stand at the same step."""
    recipe, step = settings.recipe, runs[0].step
    for one in runs:
        one.begin(len(runs), how.sentence)
    stack = _Stack(runs, settings, how)
    state = stack.begin(program)
    if step == 0:
        stack.score(program, state)
    rows = stack.rows(step)
    while rows and not clock.stopped.is_set():
        taken = rows[0][0].shape[0]
        rates = recipe.rates()[step : step + taken]
        state, losses = program.train(
            state,
            stack.join([tokens for tokens, _ in rows]),
            stack.join([lengths for _, lengths in rows]),
            stack.join([rates * np.float32(one.cell.learning_rate) for one in runs]),
        )
        step += taken
        # Made while the devices are at work.
        following = stack.rows(step)
        for one, loss, (tokens, _) in zip(runs, stack.split(losses), rows, strict=True):
            one.trained(np.asarray(loss), tokens)
        stack.score(program, state)
        rows = following
        clock.advance(taken * len(runs))
        if step % settings.keep_every == 0 and step < recipe.steps:
            stack.keep(state)
    if step == recipe.steps:
        for one in runs:
            one.finish()


class _Stack:
    """Cells that are computed together, as one array where they are stacked.

    A stack that is not full is filled up with its last cell, whose results are then dropped.
    """

    def __init__(self, runs: list[CellRun], settings: Settings, how: Plan) -> None:
        self._runs, self._settings, self._how = runs, settings, how

    def join(self, arrays: Sequence[Any]) -> Any:
        """One array for each cell as that of the program."""
        if self._how.stacked is None:
            return np.asarray(arrays[0])
        filled = [*arrays, *[arrays[-1]] * (self._how.at_once - len(arrays))]
        return jax.device_put(np.stack(filled), self._how.stacked)

    def split(self, array: Any) -> list[Any]:
        """What is each cell's of an array of the program."""
        if self._how.stacked is None:
            return [array]
        return list(np.asarray(array)[: len(self._runs)])

    def begin(self, program: Program) -> State:
        """The state, from what is kept or from the seeds."""
        seeds = self.join([np.uint32(one.cell.seed) for one in self._runs])
        fresh = program.initialize(seeds)
        kept = [one.leaves() for one in self._runs]
        if any(leaves is None for leaves in kept):
            return fresh
        old, tree = jax.tree.flatten(fresh)
        parts = [[leaves[i] for leaves in kept if leaves is not None] for i in range(len(old))]
        return jax.tree.unflatten(tree, [jnp.asarray(self.join(part)) for part in parts])

    def rows(self, step: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows of each cell from `step` on up to the next scoring; none at the end."""
        steps = min(self._settings.every, self._settings.recipe.steps - step)
        if not steps:
            return []
        if len(self._runs) == 1:
            return [self._runs[0].data.steps(step, steps)]
        with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
            return list(pool.map(lambda one: one.data.steps(step, steps), self._runs))

    def score(self, program: Program, state: State) -> None:
        """Scores each cell's rows of either side."""
        sides = []
        for side in ("unseen", "seen"):
            tokens = self.join([getattr(one.data, side).encoded.tokens for one in self._runs])
            losses, right = program.score(state.params, tokens)
            sides.append(list(zip(self.split(losses), self.split(right), strict=True)))
        for one, unseen, seen in zip(self._runs, *sides, strict=True):
            one.scored(unseen, seen)

    def keep(self, state: State) -> None:
        """Keeps each cell's state."""
        parts = [self.split(leaf) for leaf in jax.tree.leaves(state)]
        for i, one in enumerate(self._runs):
            one.keep(part[i] for part in parts)
