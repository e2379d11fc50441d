"""What the cells of a comparison of selections came to, and how far from rows at random.

A cell is a space, a rule and a budget. Values are those of the targets that steered nothing, at the
last step, by seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.report.curves import number
from zsg_jax.report.differences import units
from zsg_jax.report.examples import values_of
from zsg_jax.report.metrics import METRICS
from zsg_jax.report.runs import put_together, read_runs
from zsg_jax.report.summary import Runs, every_record, records_by_step
from zsg_jax.runtime.files import need_json, read_json
from zsg_jax.statistics.paired import Difference, paired_differences
from zsg_jax.workdir.layout import COST, DATA

RANDOM = "random"
_HASHING = "hashing"


class Cell(NamedTuple):
    """A way to select, at one budget.

    Attributes:
        space: what rows are compared by; "" of a rule that compares none.
        rule: which rows; `RANDOM` for rows at random.
        budget: training rows.
        folder: the workdir of the study that it is a part of.
        names: seed → arrangement.
    """

    space: str
    rule: str
    budget: int
    folder: Path
    names: Mapping[int, str]

    @property
    def way(self) -> str:
        """Space and rule."""
        return f"{self.space}: {self.rule}" if self.space else self.rule


def way_name(way: str) -> str:
    """Space and rule as a sentence has them: "targets by hashing"."""
    space, colon, rule = way.rpartition(": ")
    return f"{rule} by {space}" if colon else rule


class Cost(NamedTuple):
    """What a space took, over all budgets: seconds of embedding, and bytes of its embeddings."""

    seconds: float
    bytes: int


class Measured(NamedTuple):
    """A measure of all cells.

    Attributes:
        name: of `METRICS`.
        values: way → budget → (K, N), by seed and scored target, of the same for all.
        differences: way → budget → that from rows at random, p corrected for all of them; without
            that of random itself.
        pooled: way → the same of the mean over budgets.
        tasks: of the N targets, where they are drawn by task; None: one by one.
    """

    name: str
    values: Mapping[str, Mapping[int, np.ndarray]]
    differences: Mapping[str, Mapping[int, Difference]]
    pooled: Mapping[str, Difference]
    tasks: Sequence[str] | None


class Results(NamedTuple):
    """A finished comparison.

    Attributes:
        cells: of the page, random first.
        seeds: of every cell.
        measured: what was measured in all of them, the loss first.
        by_set: set of targets → the loss of its targets; empty where they are one set.
        costs: space → what it took; without those of which it is not told.
        facts: label → text: what the model was and where it ran.
        seconds: in training steps, of all runs.
    """

    cells: Sequence[Cell]
    seeds: Sequence[int]
    measured: Sequence[Measured]
    by_set: Mapping[str, Measured]
    costs: Mapping[str, Cost]
    facts: Mapping[str, str]
    seconds: float

    @property
    def ways(self) -> list[str]:
        """Random, and then the others."""
        return list(dict.fromkeys(cell.way for cell in self.cells))

    @property
    def budgets(self) -> list[int]:
        """Ascending."""
        return sorted({cell.budget for cell in self.cells})

    @property
    def titled(self) -> list[tuple[str, Measured]]:
        """What was measured, each with its title; the loss of each set of targets last."""
        titles = [METRICS[one.name].title for one in self.measured]
        sets = [f"{titles[0]} of target set {name}" for name in self.by_set]
        return list(zip([*titles, *sets], [*self.measured, *self.by_set.values()], strict=True))

    def space(self, way: str) -> str:
        """By what a way compares rows; "" for one that compares none."""
        return next(cell.space for cell in self.cells if cell.way == way)

    def cost(self, way: str) -> Cost | None:
        """What the space of a way took; None where there is none, or it is not told."""
        return self.costs.get(self.space(way))


def read(cells: Iterable[Cell]) -> Results:
    """Reads the records of all cells.

    Raises:
        UserError: a run has not finished, or its records are not those it finished with.
    """
    cells = sorted(cells, key=lambda cell: cell.rule != RANDOM)  # random first
    found: dict[str, dict[str, dict[int, Any]]] = {}  # measure → way → budget → (K, N)
    facts: list[dict[str, str]] = []
    tasks: dict[str, list[str] | None] = {}
    seconds = 0.0
    for budget in sorted({cell.budget for cell in cells}):
        runs: dict[str, dict[int, Any]] = {}
        scored: dict[str, dict[int, Any]] = {}
        for cell in cells:
            if cell.budget == budget:
                one = read_runs(cell.folder, [(name, seed) for seed, name in cell.names.items()])
                facts += [of for by_seed in one.facts.values() for of in by_seed.values()]
                runs[cell.way] = {seed: one.records[n][seed] for seed, n in cell.names.items()}
                scored[cell.way] = {seed: one.scored[n][seed] for seed, n in cell.names.items()}
        data = need_json(cells[0].folder / DATA, ("test_id_tasks",))
        for name, (values, of) in _last(runs, scored, data["test_id_tasks"]).items():
            tasks[name] = of
            for way, array in values.items():
                found.setdefault(name, {}).setdefault(way, {})[budget] = array
        seconds += sum(one.get("seconds", 0.0) for one in every_record(runs))
    measured = [_compared(name, by_way, tasks[name]) for name, by_way in found.items()]
    by_set = _by_set(measured[0], data.get("test_id_sets", ()))
    seeds, costs = list(cells[0].names), _costs(cells)
    return Results(cells, seeds, measured, by_set, costs, put_together({"": facts}), seconds)


def _by_set(loss: Measured, sets: Sequence[str]) -> dict[str, Measured]:
    """The loss of each set's targets, where all are known to stand in several.

    A target alone is none, where one seed and one target would tell no error.
    """
    found = {}
    for name in sorted(set(sets)) if len(set(sets)) > 1 else ():
        of = [place for place, one in enumerate(sets) if one == name]
        values = {
            way: {budget: one[:, of] for budget, one in by_budget.items()}
            for way, by_budget in loss.values.items()
        }
        if next(iter(values[RANDOM].values())).size > 1:
            tasks = None if loss.tasks is None else [loss.tasks[place] for place in of]
            found[name] = _compared(loss.name, values, tasks)
    return found


def _last(
    runs: Runs, scored: Runs, tasks: Sequence[str]
) -> dict[str, tuple[dict[str, np.ndarray], list[str] | None]]:
    """Measure → way → (K, N) values at the last step, if all cells have them; and the N tasks."""
    tests = [records_by_step(one, "test") for by_seed in runs.values() for one in by_seed.values()]
    last = max(tests[0])
    found = {}
    for name in METRICS:
        if all(number(one[last].get(name)) == one[last].get(name) for one in tests):
            values, of = values_of(name, runs, scored, tasks, [last]).at(last)
            if values:
                found[name] = values, of
    return found


def _compared(
    name: str, values: Mapping[str, Mapping[int, np.ndarray]], tasks: Sequence[str] | None
) -> Measured:
    clusters = units(tasks)
    each = {(way, b): one for way, by_budget in values.items() for b, one in by_budget.items()}
    others = [key for key in each if key[0] != RANDOM]
    told = paired_differences(
        {_key(*key): one for key, one in each.items()},
        [(_key(*key), _key(RANDOM, key[1])) for key in others],
        clusters=clusters,
    )
    differences: dict[str, dict[int, Difference]] = {}
    for (way, budget), one in zip(others, told, strict=True):
        differences.setdefault(way, {})[budget] = one
    pairs = [(way, RANDOM) for way in differences]
    pooled = paired_differences(over_budgets(values), pairs, clusters=clusters)
    by_way = dict(zip(differences, pooled, strict=True))
    return Measured(name, values, differences, by_way, clusters)


def over_budgets(values: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, np.ndarray]:
    """Way → (K, N), each target's mean over budgets."""
    return {way: np.mean(list(by_budget.values()), axis=0) for way, by_budget in values.items()}


def _key(way: str, budget: int) -> str:
    return f"{budget} {way}"


def _costs(cells: Sequence[Cell]) -> dict[str, Cost]:
    """Embeddings that a second budget took from the cache of the first cost their reading.

    A space that does not tell it of all budgets has none: a part of it would look cheap.
    """
    costs: dict[str, Cost] = {}
    untold = set()
    for space, folder in dict.fromkeys((cell.space, cell.folder) for cell in cells):
        # Where no space is needed, hashed n-grams are there to look for leaks.
        name = space or _HASHING
        told = read_json(folder / "embeddings" / COST, ("seconds", "bytes"))
        if told is None:
            untold.add(name)
            continue
        before = costs.get(name, Cost(0.0, 0))
        size = max(before.bytes, told["bytes"])
        costs[name] = Cost(before.seconds + told["seconds"], size)
    known = costs.keys() - untold
    return {cell.space: costs[cell.space] for cell in cells if cell.space in known}
