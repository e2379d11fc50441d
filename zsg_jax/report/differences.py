"""Which arrangements can be told apart: paired differences of their losses, example by example."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zsg_jax.report.summary import Record, Runs, records_by_step
from zsg_jax.statistics.paired import Difference, paired_differences

MIN_TASKS = 10  # from so many on, whole tasks are drawn: of fewer, draws say nothing of tasks

KEYS = (
    "every pair of arrangements, the loss of `first` less that of `second`: `mean`, the interval "
    "from `low` to `high` that holds 95 % of the bootstrap's draws, `p`, `p_holm` (for all pairs "
    "of the step); `detectable` is the smallest difference that so many test instances would show"
)


def differences(
    runs: Runs, tasks: Sequence[str] | None, steps: Sequence[int]
) -> dict[int, list[Difference]]:
    """The paired differences of the loss at each of `steps` that all runs were evaluated at.

    Seeds are drawn too, those that all arrangements have.

    Args:
        runs: arrangement → seed → records of metrics.jsonl.
        tasks: of every test instance; None if that was not kept.
    """
    tests = {
        name: {seed: records_by_step(records, "test") for seed, records in by_seed.items()}
        for name, by_seed in runs.items()
    }
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in tests.values())))
    found = {}
    for step in dict.fromkeys(steps):
        values = {
            name: losses
            for name, by_seed in tests.items()
            if (losses := _losses([by_seed[seed].get(step, {}) for seed in seeds])) is not None
        }
        shapes = {losses.shape for losses in values.values()}
        if len(values) == len(tests) > 1 and len(shapes) == 1:
            known = tasks is not None and len(tasks) == next(iter(shapes))[1]
            clusters = tasks if known and len(set(tasks or ())) >= MIN_TASKS else None
            found[step] = paired_differences(values, clusters=clusters)
    return found


def sentence(difference: Difference) -> str:
    """What a difference says, in words."""
    interval = f"95\N{NO-BREAK SPACE}%: {difference.low:.3f} to {difference.high:.3f}"
    if difference.p_holm > 0.05 or difference.low <= 0 <= difference.high:
        return f"{difference.first} and {difference.second} cannot be told apart ({interval})"
    way = "below" if difference.mean < 0 else "above"
    return (
        f"{difference.first} is {abs(difference.mean):.3f} {way} {difference.second} ({interval})"
    )


def as_json(found: Mapping[int, list[Difference]]) -> dict[str, list[dict[str, Any]]]:
    """Step → what `Difference` holds, for every pair."""
    return {str(step): [one._asdict() for one in pairs] for step, pairs in found.items()}


def _losses(records: Sequence[Record]) -> np.ndarray | None:
    """(K, N), the loss of every instance at a step of every seed; None where that is not there."""
    losses = [record.get("losses") for record in records]
    if not losses or any(not one or len(one) != len(losses[0] or ()) for one in losses):
        return None
    values = np.array(losses, np.float64)
    return values if np.isfinite(values).all() else None
