"""The value of every test example, for each measure, from the records of runs."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.report.curves import number
from zsg_jax.report.metrics import METRICS
from zsg_jax.report.summary import Record, Runs, every_record

Values = Mapping[str, float]  # id → value


class Measured(NamedTuple):
    """What was measured on each example.

    Attributes:
        values: arrangement → seed → step → id → value.
        tasks: id → task, or empty where that was not kept.
    """

    values: Mapping[str, Mapping[int, Mapping[int, Values]]]
    tasks: Mapping[str, str]

    def at(
        self, step: int, names: Collection[str] | None = None
    ) -> tuple[dict[str, np.ndarray], list[str] | None]:
        """Arrangement → (K, N) values of the seeds and examples of all, and the N tasks.

        Of the arrangements `names`, or of all. Empty where one lacks an example that another has,
        or a value is not finite; the tasks are None where one is not known.
        """
        chosen = {name: one for name, one in self.values.items() if names is None or name in names}
        if not chosen:
            return {}, None
        seeds = sorted(set.intersection(*map(set, chosen.values())))
        cells = {
            name: [by_seed[seed].get(step, {}) for seed in seeds]
            for name, by_seed in chosen.items()
        }
        ids = {frozenset(one) for found in cells.values() for one in found}
        if len(ids) != 1 or not next(iter(ids)):
            return {}, None
        order = sorted(next(iter(ids)))
        arrays = {
            name: np.array([[one[id] for id in order] for one in found], np.float64)
            for name, found in cells.items()
        }
        if not all(np.isfinite(one).all() for one in arrays.values()):
            return {}, None
        tasks = [self.tasks[id] for id in order] if self.tasks.keys() >= set(order) else None
        return arrays, tasks


def losses(runs: Runs, tasks: Sequence[str] | None, steps: Collection[int]) -> Measured:
    """The losses in the test records of metrics.jsonl; an example is told by its place.

    Args:
        runs: arrangement → seed → records.
        tasks: of every test example; None if that was not kept.
        steps: whose values are wanted.
    """
    values = {
        name: {
            seed: {
                one["step"]: {f"{place:09}": number(loss) for place, loss in enumerate(told)}
                for one in records
                if one.get("kind") == "test"
                and one["step"] in steps
                and (told := one.get("losses"))
            }
            for seed, records in by_seed.items()
        }
        for name, by_seed in runs.items()
    }
    counts = {
        len(one) for seeds in values.values() for run in seeds.values() for one in run.values()
    }
    if tasks is None or counts != {len(tasks)}:
        return Measured(values, {})
    return Measured(values, {f"{place:09}": task for place, task in enumerate(tasks)})


def scores(scored: Runs, field: str, steps: Collection[int]) -> Measured:
    """The values of a field in generations.jsonl and scores.jsonl; of several samples their mean.

    Args:
        scored: arrangement → seed → records of both files. Of records of one step, example and
            sample the last counts.
        field: such as "rougeL".
        steps: whose values are wanted.
    """
    tasks: dict[str, str] = {}
    values: dict[str, dict[int, dict[int, Values]]] = {}
    for name, by_seed in scored.items():
        for seed, records in by_seed.items():
            samples: dict[int, dict[str, dict[int, float]]] = {}
            for one in records:
                if field in one and one["step"] in steps:
                    of_step = samples.setdefault(one["step"], {})
                    of_step.setdefault(one["id"], {})[one.get("sample", 0)] = number(one[field])
                    tasks[one["id"]] = one["task"]
            values.setdefault(name, {})[seed] = {
                step: {id: float(np.mean(list(found.values()))) for id, found in by_id.items()}
                for step, by_id in samples.items()
            }
    return Measured(values, tasks)


def values_of(
    metric: str, runs: Runs, scored: Runs, tasks: Sequence[str] | None, steps: Collection[int]
) -> Measured:
    """The values of the loss or of a field of scores; arguments as `losses` and `scores` have."""
    if metric == "loss":
        return losses(runs, tasks, steps)
    return scores(scored, metric, steps)


def with_sets(runs: Runs, scored: Runs, sets: Mapping[str, str]) -> Runs:
    """The runs, whose test records tell the mean of each target set in NAME_by_set.

    Args:
        runs, scored: as `losses` and `scores` take them.
        sets: id → set of every test example, in the order of the losses; of fewer than two sets
            nothing is told.
    """
    if len(set(sets.values())) < 2:
        return runs
    steps = sorted({one["step"] for one in every_record(runs) if one.get("kind") == "test"})
    loss = losses(runs, list(sets.values()), steps)
    measured = {"loss": (loss.values, loss.tasks)}
    for field in METRICS.keys() - {"loss"}:
        measured[field] = scores(scored, field, steps).values, sets

    def told(name: str, seed: int, record: Record) -> Record:
        if record.get("kind") != "test":
            return record
        means = dict[str, dict[str, float]]()
        for field, (values, of) in measured.items():
            found = values.get(name, {}).get(seed, {}).get(record["step"], {})
            if found and found.keys() <= of.keys():
                means[f"{field}_by_set"] = {
                    one: float(np.mean([value for id, value in found.items() if of[id] == one]))
                    for one in dict.fromkeys(of[id] for id in found)
                }
        return {**record, **means}

    return {
        name: {seed: [told(name, seed, one) for one in run] for seed, run in by_seed.items()}
        for name, by_seed in runs.items()
    }


def last_texts(records: Sequence[Record]) -> tuple[int, dict[str, Record]] | None:
    """The last step of a run that has texts, and id → the record of its first text there."""
    steps = [one["step"] for one in records if "text" in one]
    if not steps:
        return None
    last = max(steps)
    told = [one for one in records if one["step"] == last and "text" in one]
    return last, {one["id"]: one for one in told if not one.get("sample")}
