"""Turns the metrics records of finished runs into the numbers that a study is compared by.

Everything here is float64 NumPy on lists that come from `metrics.jsonl`; the result is plain
JSON, in which a number that is not finite is null.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from zsg_jax.report.curves import (
    area_under_curve,
    curve_kind,
    first_step_within,
    json_ready,
    number,
)
from zsg_jax.runtime.errors import check
from zsg_jax.statistics.steadiness import Steadiness, steadiness

Record = Mapping[str, Any]
Runs = Mapping[str, Mapping[int, Sequence[Record]]]
Pair = tuple[str, str]  # two arrangements

# What the keys of an arrangement's entry mean; written into summary.json beside the numbers.
KEYS = {
    "steps": "optimizer steps at which every seed was evaluated; curves have one value for each",
    "loss_mean": "test loss (nats a token, mean over instances), mean over seeds",
    "loss_std": "sample standard deviation of the test loss over seeds; null for one seed",
    "loss_by_seed": "test loss of every seed",
    "loss_by_task": "test loss of every task, mean over seeds",
    "loss_by_set": "test loss of every set of targets, where there are several, mean over seeds",
    "auc": "area under the test-loss curve by the trapezoid rule, divided by the step span: "
    "an average loss, in the units of the loss; lower is better",
    "first_step_within_5_percent": "first evaluated step at which the loss differs from its final "
    "value by at most 5 % of that value; of_mean_curve is taken on loss_mean",
    "final_loss": "test loss at the last of the steps",
    "curve_kind": "falls early and stays | falls late | rises again | does not move; "
    "the rule stands in zsg_jax.report.curves.curve_kind",
    "steadiness": "of the loss, mean over seeds: `against`, the share of moves against the "
    "smoothed curve, and `noise`, the deviation from it as a share of its range; null where the "
    "curve is short or does not move",
    "window": "the same area and loss up to the step `window` of the summary, the last that all "
    "arrangements were evaluated at up to report.window; null without one",
    "scores": "every other number of the test rows, on the steps at which all seeds have it: "
    "its curve's mean and standard deviation, by task, category and target set where it has that, "
    "its final value and steadiness",
}

OVER_TASKS = "_over_tasks"
# Fields of a test record NAME_by_task, …, that tell a metric of a part of the test examples.
GROUPS = {"by_task": "task", "by_category": "category", "by_set": "target set"}

# Numbers of a test record that are counts or clocks, not scores.
_NOT_SCORES = {"step", "loss", "instances", "dropped", "skipped", "tokens", "seconds"}


def summarize(runs: Runs, window: int | None = None) -> dict[str, Any]:
    """Summarizes `runs` (arrangement → seed → metrics records) as a JSON-ready dict.

    The result holds `arrangements` (name → an entry whose keys `KEYS` documents, besides `seeds`,
    `instances`, `dropped` and `note`), `window` (the step where it ends, or null), `keys` (that
    documentation) and `notes` (lines on the comparison as a whole). Spread over seeds is the sample
    standard deviation, null for one seed. Seeds that were evaluated at different steps, as an
    unfinished run is, are compared on their common steps only, and the entry's `note` says so. Of
    records of one step the last counts. A `window` that lies before the last step adds what was
    reached by then.

    Raises:
      UserError: no runs, an arrangement without seeds, or seeds without a common evaluation.
    """
    check(bool(runs), "there are no runs to report; train at least one arrangement first")
    tests = {name: _tests(name, by_seed) for name, by_seed in runs.items()}
    steps = {name: _common(name, by_seed) for name, by_seed in tests.items()}
    end = _window_end(list(steps.values()), window)
    entries = {name: _entry(by_seed, steps[name], end) for name, by_seed in tests.items()}
    notes = []
    ends = {name: entry["steps"][-1] for name, entry in entries.items()}
    if len(set(ends.values())) > 1:
        ends_at = ", ".join(f"{name} at step {end}" for name, end in ends.items())
        notes.append(
            "The arrangements do not end at the same step, so their areas and final losses are "
            f"not taken over the same steps: {ends_at}. Two of them are compared at the last step "
            "that both were measured at, and not at all where that is step 0; a smaller "
            "evaluation.every gives more steps."
        )
    return json_ready({"arrangements": entries, "window": end, "notes": notes, "keys": KEYS})


def records_by_step(records: Iterable[Record], kind: str) -> dict[int, Record]:
    """The records of one `kind` ("train" or "test") by step, ascending; of a step, the last."""
    found = {int(one["step"]): one for one in records if one.get("kind") == kind}
    return dict(sorted(found.items()))


def every_record(runs: Runs) -> list[Record]:
    """The records of all runs, one after another."""
    return [one for by_seed in runs.values() for records in by_seed.values() for one in records]


def over_tasks(scores: Iterable[str]) -> dict[str, str]:
    """The scores that are means over tasks, NAME_over_tasks, with the NAME of each."""
    names = set(scores)
    found = {name: name.removesuffix(OVER_TASKS) for name in names if name.endswith(OVER_TASKS)}
    return {name: of for name, of in found.items() if of in names}


def compared_at(
    summary: Mapping[str, Any], metric: str, pairs: Sequence[Pair] | None = None
) -> dict[int, list[Pair]]:
    """Step → the pairs of arrangements to compare there, of `pairs` or of all there are.

    All at the last step of the window, if there is one, at which the metric was measured in each;
    and each pair at the last step that both have. At step 0 nothing has been trained yet.
    """
    curves = {
        name: set(curve["steps"]) - {0}
        for name, entry in summary["arrangements"].items()
        if (curve := curve_of(entry, metric))
    }
    end = summary["window"]
    common = set.intersection(*curves.values()) if curves else set()
    window = {max(upto)} if (upto := [s for s in common if end is not None and s <= end]) else set()
    found: dict[int, list[Pair]] = {}
    for first, second in combinations(curves, 2) if pairs is None else pairs:
        shared = curves.get(first, set()) & curves.get(second, set())
        for step in window | {max(shared)} if shared else ():
            found.setdefault(step, []).append((first, second))
    return dict(sorted(found.items()))


Tests = Mapping[int, Mapping[int, Record]]  # seed → step → the test record


def _tests(name: str, by_seed: Mapping[int, Sequence[Record]]) -> Tests:
    check(bool(by_seed), f"{name}: there is no run of any seed to report")
    tests = {seed: records_by_step(by_seed[seed], "test") for seed in sorted(by_seed)}
    for seed, found in tests.items():
        check(bool(found), f"{name}, seed {seed}: its metrics hold no test record to report")
    return tests


def _common(name: str, tests: Tests) -> list[int]:
    """The steps that all seeds were evaluated at."""
    steps = sorted(set.intersection(*(set(one) for one in tests.values())))
    seeds = list(tests)
    check(bool(steps), f"{name}: seeds {seeds} share no evaluated step, so they have no mean curve")
    return steps


def _window_end(steps: Sequence[Sequence[int]], window: int | None) -> int | None:
    """The last step up to `window` that all were evaluated at; None where all end there."""
    common = set.intersection(*map(set, steps)) - {0}
    end = max((step for step in common if window is not None and step <= window), default=None)
    return None if all(one[-1] == end for one in steps) else end


def _entry(tests: Tests, steps: Sequence[int], window: int | None) -> dict[str, Any]:
    seeds = list(tests)
    note = None
    if any(len(one) > len(steps) for one in tests.values()):
        ends_at = ", ".join(f"seed {seed} at step {max(one)}" for seed, one in tests.items())
        note = (
            f"Its seeds were not all evaluated at the same steps; only the {len(steps)} common "
            f"steps up to {steps[-1]} are used. Last evaluations: {ends_at}."
        )

    loss = _curve(tests, seeds, steps, "loss")
    losses, by_task = list(loss["by_seed"].values()), loss["by_task"]
    last = tests[seeds[0]][steps[-1]]
    return {
        "seeds": seeds,
        "steps": steps,
        "loss_mean": loss["mean"],
        "loss_std": loss["std"],
        "loss_by_seed": loss["by_seed"],
        "loss_by_task": by_task,
        "loss_by_set": loss["by_set"],
        "auc": _spread(seeds, [area_under_curve(steps, curve) for curve in losses]),
        "first_step_within_5_percent": {
            "of_mean_curve": first_step_within(steps, loss["mean"]),
            **_spread(seeds, [first_step_within(steps, curve) for curve in losses]),
        },
        "final_loss": loss["final"],
        "steadiness": loss["steadiness"],
        "window": _window(seeds, steps, losses, window),
        "curve_kind": {task: curve_kind(steps, curve) for task, curve in by_task.items()},
        "scores": _scores(tests, seeds),
        "instances": last.get("instances"),
        "dropped": last.get("dropped"),
        "note": note,
    }


def _window(
    seeds: Sequence[int], steps: Sequence[int], losses: Iterable[np.ndarray], end: int | None
) -> dict[str, Any] | None:
    """What was reached at the step `end`; None without one."""
    if end is None:
        return None
    count = steps.index(end) + 1
    curves = [curve[:count] for curve in losses]
    return {
        "step": end,
        "auc": _spread(seeds, [area_under_curve(steps[:count], curve) for curve in curves]),
        "loss": _spread(seeds, [curve[-1] for curve in curves]),
    }


def curve_of(entry: Mapping[str, Any], metric: str) -> Mapping[str, Any] | None:
    """A metric's part of an arrangement's entry; None where it was not measured.

    Returns:
        "steps", and for each of them "mean", "std" (None for one seed), "by_task", "by_set" and,
        of a score, "by_category"; "final" and "steadiness".
    """
    if metric != "loss":
        return entry["scores"].get(metric)
    parts = {name: entry[f"loss_{name}"] for name in ("mean", "std", "by_task", "by_set")}
    parts |= {"final": entry["final_loss"], "steadiness": entry["steadiness"]}
    return {"steps": entry["steps"], **parts}


def _curve(tests: Tests, seeds: Sequence[int], steps: Sequence[int], name: str) -> dict[str, Any]:
    """What `curve_of` gives, and the curve "by_seed", of a field of all seeds' test records."""
    values = np.array([[number(tests[k][s].get(name)) for s in steps] for k in seeds])
    return {
        "steps": steps,
        "mean": values.mean(axis=0),
        "std": _std(values),
        "by_seed": dict(zip(map(str, seeds), values, strict=True)),
        **{part: _parts(tests, seeds, steps, f"{name}_{part}") for part in GROUPS},
        "final": _spread(seeds, values[:, -1].tolist()),
        "steadiness": _steadiness(values),
    }


def _parts(
    tests: Tests, seeds: Sequence[int], steps: Sequence[int], name: str
) -> dict[str, np.ndarray]:
    """The mean curve of each part of a group, in a field that tells them all."""
    cells = [[tests[k][s].get(name) or {} for s in steps] for k in seeds]
    parts = sorted({part for curve in cells for cell in curve for part in cell})
    return {
        part: np.mean([[number(cell.get(part)) for cell in curve] for curve in cells], axis=0)
        for part in parts
    }


def _steadiness(values: np.ndarray) -> dict[str, float] | None:
    """Mean over seeds of each curve's, `values` (K, S); None where a curve has none."""
    found = [steadiness(curve) for curve in values]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    return dict(zip(Steadiness._fields, np.mean(known, axis=0), strict=True))


def _scores(tests: Tests, seeds: Sequence[int]) -> dict[str, Any]:
    records = [one for by_step in tests.values() for one in by_step.values()]
    names = {
        key
        for one in records
        for key, value in one.items()
        if key not in _NOT_SCORES and number(value) == value
    }
    scores = {}
    for name in sorted(names):
        steps = [s for s in tests[seeds[0]] if all(name in tests[k].get(s, {}) for k in seeds)]
        if steps:
            scores[name] = _curve(tests, seeds, steps, name)
    return scores


def _std(values: np.ndarray) -> np.ndarray | None:
    """Sample standard deviation over the first axis; None for one, which has no spread."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else None


def _spread(seeds: Sequence[int], values: Sequence[float | None]) -> dict[str, Any]:
    found = np.array([number(value) for value in values])
    return {
        "mean": found.mean(),
        "std": _std(found),
        "by_seed": dict(zip(map(str, seeds), values, strict=True)),
    }
