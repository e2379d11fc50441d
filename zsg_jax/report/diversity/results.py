"""What the cells of a grid came to: by the axes that differ, by I, by seed."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.diversity.cells import AXES, Cell
from zsg_jax.diversity.runs import ended, folder_of
from zsg_jax.runtime.errors import UserError
from zsg_jax.statistics.transition import Transition, transition
from zsg_jax.training import metrics

# What is told of a cell, by the field of its test records.
MEASURES = {
    "unseen_exact": "unseen rules",
    "unseen_exact_applied": "with an application",
    "unseen_exact_no_op": "without",
    "seen_exact": "trained rules",
    "unseen_copied": "copied letters",
    "unseen_replaced": "replaced letters",
    "unseen_loss": "loss",
}
# From so many right answers on, rules count as mastered.
MASTERED = 0.5
PHASES = ("neither", "memorizes", "generalizes")


class Group(NamedTuple):
    """Cells that differ in I and seed alone.

    Attributes:
        label: the values of the axes in which groups differ, "" where there is one group.
        values: of these axes.
        records: I → seed → test records, step by step.
    """

    label: str
    values: dict[str, Any]
    records: dict[int, dict[int, list[dict[str, Any]]]]

    @property
    def title(self) -> str:
        """The label, or what stands for it where there is one group."""
        return self.label or "all cells"

    def named(self, rules: int) -> str:
        """The cells of one I."""
        return f"{self.label}, {rules:,} rules" if self.label else f"{rules:,} rules"

    def last(self, measure: str) -> dict[int, dict[int, float]]:
        """I → seed → the final value; without those that have none."""
        found = {
            rules: {
                seed: records[-1][measure]
                for seed, records in by_seed.items()
                if records[-1][measure] is not None
            }
            for rules, by_seed in self.records.items()
        }
        return {rules: by_seed for rules, by_seed in found.items() if by_seed}

    def curve(self, rules: int, measure: str) -> tuple[list[int], np.ndarray]:
        """Steps (S,), and the values by seed (K, S), NaN for none."""
        by_seed = list(self.records[rules].values())
        steps = [one["step"] for one in by_seed[0]]
        return steps, np.array([[one[measure] for one in seed] for seed in by_seed], np.float64)

    def transition(self, measure: str) -> Transition | None:
        """Where the accuracy on unseen rules, by a measure that `rising` gives, rises in I."""
        return transition(self.last(measure))

    def phases(self) -> tuple[list[int], list[int], np.ndarray]:
        """Steps (S,), I (N,), and the place in `PHASES` of each, (N, S), of means over seeds."""
        rules = sorted(self.records)
        steps, _ = self.curve(rules[0], "unseen_exact")
        phase = np.zeros((len(rules), len(steps)), np.int64)
        for i, one in enumerate(rules):
            for value, measure in ((1, "seen_exact"), (2, "unseen_exact")):
                phase[i, self.curve(one, measure)[1].mean(axis=0) >= MASTERED] = value
        return steps, rules, phase


def rising(groups: Sequence[Group]) -> str:
    """The measure whose rise in I is told of all groups.

    Rows without an application are right from few rules on: a curve that has them starts at their
    share, not at 0. Where such rows are scored, it is that of the others alone.
    """
    without = any(group.last("unseen_exact_no_op") for group in groups)
    applied = all(group.last("unseen_exact_applied") for group in groups)
    return "unseen_exact_applied" if without and applied else "unseen_exact"


def read(workdir: Path, cells: Sequence[Cell]) -> list[Group]:
    """The groups of a finished grid, in the order of its axes.

    Raises:
        UserError: a cell has not finished.
    """
    fields = {cell: asdict(cell) for cell in cells}
    varied = [
        axis
        for axis in AXES
        if axis not in ("rules", "seed") and len({one[axis] for one in fields.values()}) > 1
    ]
    groups: dict[str, Group] = {}
    for cell in cells:
        folder = folder_of(workdir, cell)
        if ended(folder) is None:
            raise UserError(f"{folder}: has not finished; run the study again to go on with it")
        values = {axis: fields[cell][axis] for axis in varied}
        label = ", ".join(_told(axis, value) for axis, value in values.items())
        group = groups.setdefault(label, Group(label, values, {}))
        records = [one for one in metrics.read_records(folder) if one["kind"] == "test"]
        group.records.setdefault(cell.rules, {})[cell.seed] = records
    return list(groups.values())


def _told(axis: str, value: Any) -> str:
    """An axis and a value, with words where 0 stands for something."""
    words = {"samples": "fresh rows", "pool": "fresh rows", "exponent": "equal shares"}
    if axis in words and not value:
        return words[axis]
    return f"{axis.replace('_', ' ')} {value}"
