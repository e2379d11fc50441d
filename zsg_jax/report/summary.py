"""Turns the metrics records of finished runs into the numbers that a study is compared by.

Everything here is float64 NumPy on lists that come from `metrics.jsonl`; the result is plain
JSON, in which a number that is not finite is null.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.runtime.errors import check
from zsg_jax.statistics.steadiness import Steadiness, steadiness

Record = Mapping[str, Any]
Runs = Mapping[str, Mapping[int, Sequence[Record]]]


class Metric(NamedTuple):
    """How the report tells a field of the test records.

    Attributes:
        title: of its figures and columns.
        label: of its axes.
        meaning: a sentence for its caption.
        best: min or max: which of several arrangements' final values is marked.
    """

    title: str
    label: str
    meaning: str
    best: Callable[..., Any]


# What has figures of its own and a column of final values; a field NAME may have values by task in
# a field NAME_by_task. Other numbers of the records share the figure of scores.
METRICS = {
    "loss": Metric("Test loss", "test loss", "Nats a token, mean over test instances.", min),
}

NEAR_FINAL = 0.05  # "within 5 % of its final value"
FLAT = 0.05  # a task's loss that varies by less than this share of its first value does not move
REBOUND = 0.1  # share of its range that a loss must win back to count as rising again
EARLY = 0.25  # share of the steps that counts as early

EARLY_KIND = "falls early and stays"
LATE_KIND = "falls late"
RISING_KIND = "rises again"
FLAT_KIND = "does not move"
KINDS = (EARLY_KIND, LATE_KIND, RISING_KIND, FLAT_KIND)

# What the keys of an arrangement's entry mean; written into summary.json beside the numbers.
KEYS = {
    "steps": "optimizer steps at which every seed was evaluated; curves have one value for each",
    "loss_mean": "test loss (nats a token, mean over instances), mean over seeds",
    "loss_std": "sample standard deviation of the test loss over seeds; null for one seed",
    "loss_by_seed": "test loss of every seed",
    "loss_by_task": "test loss of every task, mean over seeds",
    "auc": "area under the test-loss curve by the trapezoid rule, divided by the step span: "
    "an average loss, in the units of the loss; lower is better",
    "first_step_within_5_percent": "first evaluated step at which the loss differs from its final "
    "value by at most 5 % of that value; of_mean_curve is taken on loss_mean",
    "final_loss": "test loss at the last of the steps",
    "curve_kind": "falls early and stays | falls late | rises again | does not move; "
    "the rule stands in zsg_jax.report.summary.curve_kind",
    "steadiness": "of the loss, mean over seeds: `against`, the share of moves against the "
    "smoothed curve, and `noise`, the deviation from it as a share of its range; null where the "
    "curve is short or does not move",
    "window": "the same area and loss up to the step that report.window names, or the last "
    "evaluation before it; null without one",
    "scores": "every other number of the test rows, on the steps at which all seeds have it: "
    "its curve's mean and standard deviation, by task where it has that, its final value and "
    "steadiness",
}

# Numbers of a test record that are counts or clocks, not scores.
_NOT_SCORES = {"step", "loss", "instances", "dropped", "skipped", "tokens", "seconds"}


def area_under_curve(steps: Sequence[int], losses: Sequence[float] | np.ndarray) -> float:
    """Trapezoid area of `losses` (S,) over `steps` (S,) divided by the step span, in loss units.

    NaN for fewer than two evaluations: one point spans no area.
    """
    if len(steps) < 2:
        return math.nan
    return float(np.trapezoid(losses, steps)) / (steps[-1] - steps[0])


def first_step_within(
    steps: Sequence[int], losses: Sequence[float] | np.ndarray, share: float = NEAR_FINAL
) -> int | None:
    """First of `steps` (S,) whose loss differs from the last by at most `share` of the last.

    None where the final loss is not finite. The loss may leave that band again later.
    """
    values = np.asarray(losses, np.float64)
    if not values.size or not np.isfinite(values[-1]):
        return None
    # The last value is always within, so there is a first one; NaN compares as not within.
    return int(steps[int(np.argmax(np.abs(values - values[-1]) <= share * abs(values[-1])))])


def curve_kind(steps: Sequence[int], losses: Sequence[float] | np.ndarray) -> str | None:
    """Names the kind of a loss curve, `losses` (S,) at `steps` (S,).

    Applied in this order, with range = highest − lowest loss:

    1. "does not move": the range is below 5 % of the first loss;
    2. "rises again": the final loss lies above the lowest by more than a tenth of the range
       (a curve that only rises is counted here);
    3. "falls early and stays": after its highest value the loss gets half-way down to its lowest
       no later than the first evaluation at or after a quarter of the steps;
    4. "falls late": it gets there later.

    None for fewer than three evaluations, which cannot tell early from late, or for a loss that
    is not finite.
    """
    values = np.asarray(losses, np.float64)
    if values.size < 3 or not np.isfinite(values).all():
        return None
    lowest, highest = values.min(), values.max()
    spread = highest - lowest
    if spread <= 0 or spread < FLAT * abs(values[0]):
        return FLAT_KIND
    if values[-1] - lowest > REBOUND * spread:
        return RISING_KIND
    top = int(np.argmax(values))
    halved = top + int(np.argmax(values[top:] <= (highest + lowest) / 2))
    at = np.asarray(steps)
    limit = at[at >= at[0] + EARLY * (at[-1] - at[0])][0]
    return EARLY_KIND if at[halved] <= limit else LATE_KIND


def summarize(runs: Runs, window: int | None = None) -> dict[str, Any]:
    """Summarizes `runs` (arrangement → seed → metrics records) as a JSON-ready dict.

    The result holds `arrangements` (name → an entry whose keys `KEYS` documents, besides `seeds`,
    `instances`, `dropped` and `note`), `keys` (that documentation) and `notes` (lines on the
    comparison as a whole). Spread over seeds is the sample standard deviation, null for one seed.
    Seeds that were evaluated at different steps, as an unfinished run is, are compared on their
    common steps only, and the entry's `note` says so. Of records of one step the last counts. A
    `window` that lies before the last step adds what was reached by then.

    Raises:
      UserError: no runs, an arrangement without seeds, or seeds without a common evaluation.
    """
    check(bool(runs), "there are no runs to report; train at least one arrangement first")
    entries = {name: _entry(name, by_seed, window) for name, by_seed in runs.items()}
    notes = []
    ends = {name: entry["steps"][-1] for name, entry in entries.items()}
    if len(set(ends.values())) > 1:
        ends_at = ", ".join(f"{name} at step {end}" for name, end in ends.items())
        notes.append(
            "The arrangements do not end at the same step, so their areas and final losses are "
            f"not taken over the same steps: {ends_at}."
        )
    return json_ready({"arrangements": entries, "notes": notes, "keys": KEYS})


def records_by_step(records: Iterable[Record], kind: str) -> dict[int, Record]:
    """The records of one `kind` ("train" or "test") by step, ascending; of a step, the last."""
    found = {int(one["step"]): one for one in records if one.get("kind") == kind}
    return dict(sorted(found.items()))


def number(value: Any) -> float:
    """`value` as a float; NaN for what is missing, no number or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return math.nan
    return float(value) if math.isfinite(value) else math.nan


def _entry(
    name: str, by_seed: Mapping[int, Sequence[Record]], window: int | None
) -> dict[str, Any]:
    check(bool(by_seed), f"{name}: there is no run of any seed to report")
    seeds = sorted(by_seed)
    tests = {seed: records_by_step(by_seed[seed], "test") for seed in seeds}
    for seed in seeds:
        check(bool(tests[seed]), f"{name}, seed {seed}: its metrics hold no test record to report")
    steps = sorted(set.intersection(*(set(one) for one in tests.values())))
    check(bool(steps), f"{name}: seeds {seeds} share no evaluated step, so they have no mean curve")
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
    seeds: Sequence[int], steps: Sequence[int], losses: Iterable[np.ndarray], window: int | None
) -> dict[str, Any] | None:
    """What was reached at the last evaluation up to `window`; None where that is the end."""
    count = sum(step <= window for step in steps) if window is not None else 0
    if not 0 < count < len(steps):
        return None
    curves = [curve[:count] for curve in losses]
    return {
        "step": steps[count - 1],
        "auc": _spread(seeds, [area_under_curve(steps[:count], curve) for curve in curves]),
        "loss": _spread(seeds, [curve[-1] for curve in curves]),
    }


def curve_of(entry: Mapping[str, Any], metric: str) -> Mapping[str, Any] | None:
    """A metric's part of an arrangement's entry; None where it was not measured.

    Returns:
        "steps", and for each of them "mean", "std" (None for one seed) and "by_task"; "final" and
        "steadiness".
    """
    if metric != "loss":
        return entry["scores"].get(metric)
    parts = {name: entry[f"loss_{name}"] for name in ("mean", "std", "by_task")}
    parts |= {"final": entry["final_loss"], "steadiness": entry["steadiness"]}
    return {"steps": entry["steps"], **parts}


def _curve(
    tests: Mapping[int, Mapping[int, Record]],
    seeds: Sequence[int],
    steps: Sequence[int],
    name: str,
) -> dict[str, Any]:
    """What `curve_of` gives, and the curve "by_seed", of a field of all seeds' test records."""
    values = np.array([[number(tests[k][s].get(name)) for s in steps] for k in seeds])
    cells = [[tests[k][s].get(f"{name}_by_task") or {} for s in steps] for k in seeds]
    tasks = sorted({task for curve in cells for cell in curve for task in cell})
    of_task = {
        task: np.array([[number(cell.get(task)) for cell in curve] for curve in cells])
        for task in tasks
    }
    return {
        "steps": steps,
        "mean": values.mean(axis=0),
        "std": _std(values),
        "by_seed": dict(zip(map(str, seeds), values, strict=True)),
        "by_task": {task: curves.mean(axis=0) for task, curves in of_task.items()},
        "final": _spread(seeds, values[:, -1].tolist()),
        "steadiness": _steadiness(values),
    }


def _steadiness(values: np.ndarray) -> dict[str, float] | None:
    """Mean over seeds of each curve's, `values` (K, S); None where a curve has none."""
    found = [steadiness(curve) for curve in values]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    return dict(zip(Steadiness._fields, np.mean(known, axis=0), strict=True))


def _scores(tests: Mapping[int, Mapping[int, Record]], seeds: Sequence[int]) -> dict[str, Any]:
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


def json_ready(value: Any) -> Any:
    """`value` with arrays as lists, NumPy numbers as Python's and non-finite numbers as None."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [json_ready(item) for item in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value
