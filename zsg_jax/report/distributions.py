"""Draws how rewards are spread before and after training, a line an arrangement."""

from collections.abc import Mapping, Sequence

import numpy as np

from zsg_jax.report.curves import number
from zsg_jax.report.drawing import Captioned, Outline, draw_outlines, looks
from zsg_jax.report.summary import Runs

BINS = 24


def rewards_figure(scored: Runs, names: Sequence[str]) -> Captioned | None:
    """The rewards of all texts, samples and seeds at the first and the last step that have any.

    Args:
        scored: arrangement → seed → records of generations.jsonl and scores.jsonl.
        names: all arrangements, each of which keeps its colour.

    Returns:
        None where no record has a reward.
    """
    values: dict[str, dict[int, list[float]]] = {}
    for name, by_seed in scored.items():
        for one in (one for records in by_seed.values() for one in records if "reward" in one):
            values.setdefault(name, {}).setdefault(one["step"], []).append(number(one["reward"]))
    if not values:
        return None
    ends = [{name: steps[end(steps)] for name, steps in values.items()} for end in (min, max)]
    every = np.concatenate([one for by_name in ends for one in by_name.values()])
    every = every[np.isfinite(every)]
    if not every.size:
        return None
    edges = np.histogram_bin_edges(every, BINS)
    later = {name: steps for name, steps in values.items() if len(steps) > 1}
    panels = {}
    for title, named, by_name, end in (
        ("First", later, ends[0], min),
        ("Last" if later else "Only", values, ends[1], max),
    ):
        steps = sorted({end(of_name) for of_name in named.values()})
        told = " and ".join(map(str, steps)) if len(steps) < 3 else f"{steps[0]} to {steps[-1]}"
        if named:
            panels[f"{title} measurement, step {told}"] = {
                name: Outline(np.histogram(by_name[name], edges)[0] / len(by_name[name]), edges)
                for name in named
            }
    means = "; ".join(_mean(name, steps) for name, steps in values.items())
    return Captioned(
        draw_outlines(panels, looks(names), "reward", "share of texts"),
        "Rewards before and after"
        if all(min(one) == 0 for one in later.values()) and later
        else "Rewards",
        "How the rewards of all generated texts are spread, all seeds together, "
        + (
            "at the first and at the last step they were measured at; both panels have the same "
            "axes"
            if later
            else "at the only step they were measured at"
        )
        + f". Means: {means}.",
        f"Histograms of rewards, an outline for each of {len(values)} arrangements.",
    )


def _mean(name: str, by_step: Mapping[int, Sequence[float]]) -> str:
    """The means of one arrangement at its first and last step, if these are two."""
    first, last = min(by_step), max(by_step)
    if first == last:
        return f"{name} {np.mean(by_step[last]):.3f} at step {last}"
    begin, end = ("before", "after") if first == 0 else (f"at step {first}", f"at step {last}")
    return f"{name} {np.mean(by_step[first]):.3f} {begin} and {np.mean(by_step[last]):.3f} {end}"
