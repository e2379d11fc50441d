"""Draws how rewards are spread before and after training, a line an arrangement."""

from collections.abc import Sequence

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
    panels = {}
    for title, by_name, end in zip(("First", "Last"), ends, (min, max), strict=True):
        steps = sorted({end(of_name) for of_name in values.values()})
        told = " and ".join(map(str, steps)) if len(steps) < 3 else f"{steps[0]} to {steps[-1]}"
        panels[f"{title} measurement, step {told}"] = {
            name: Outline(np.histogram(rewards, edges)[0] / len(rewards), edges)
            for name, rewards in by_name.items()
        }
    means = "; ".join(
        f"{name} {np.mean(ends[0][name]):.3f} before and {np.mean(ends[1][name]):.3f} after"
        for name in values
    )
    return Captioned(
        draw_outlines(panels, looks(names), "reward", "share of texts"),
        "Rewards before and after",
        "How the rewards of all generated texts are spread, all seeds together, at the first and "
        f"at the last step they were measured at; both panels have the same axes. Means: {means}.",
        f"Two histograms of rewards, an outline for each of {len(values)} arrangements.",
    )
