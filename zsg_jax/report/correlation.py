"""How alike the distances of the data seen so far and the test loss move."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import stats

from zsg_jax.report.curves import number
from zsg_jax.similarity.trajectory import MEASURES, Trajectory

LEAST_POINTS = 3  # two points always lie on a line
ALL = "all together"


def measured(trajectories: Mapping[str, Trajectory]) -> list[str]:
    """The measures that any trajectory has, in the order of `MEASURES`."""
    return [name for name in MEASURES if any(name in t.values for t in trajectories.values())]


def having(trajectories: Mapping[str, Trajectory], measure: str) -> list[tuple[str, Trajectory]]:
    """The trajectories that have a measure, by name."""
    return [(name, t) for name, t in trajectories.items() if measure in t.values]


def correlations(
    summary: Mapping[str, Any], trajectories: Mapping[str, Trajectory]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Correlations of each measure with the test loss over the evaluated steps.

    Step 0 has no rows seen, and does not count; nor does a step at which a measure was not taken.

    Returns:
        measure → arrangement, and `ALL` for the points of all of them in one → {"pearson",
        "spearman", "points"}; NaN for fewer than three points, or where one of both stands still.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    entries = summary["arrangements"]
    for measure in measured(trajectories):
        pairs = {}
        for name, points in having(trajectories, measure):
            if name in entries:
                curve = zip(entries[name]["steps"], entries[name]["loss_mean"], strict=True)
                losses = {step: number(loss) for step, loss in curve}
                values = zip(points.step.tolist(), points.values[measure], strict=True)
                both = [(value, losses[step]) for step, value in values if step in losses]
                finite = [pair for pair in both if np.isfinite(pair).all()]
                pairs[name] = np.array(finite).reshape(-1, 2)
        if len(pairs) > 1:
            pairs[ALL] = np.concatenate(list(pairs.values()))
        found[measure] = {name: _correlation(both) for name, both in pairs.items()}
    return found


def _correlation(pairs: np.ndarray) -> dict[str, Any]:
    """Of (n, 2) pairs of a distance and a loss."""
    pearson = spearman = math.nan
    if len(pairs) >= LEAST_POINTS and np.ptp(pairs, axis=0).all():
        with warnings.catch_warnings():
            # Values that hardly differ: the coefficient is what it is.
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            pearson = float(stats.pearsonr(*pairs.T).statistic)
        spearman = float(stats.spearmanr(*pairs.T).statistic)
    return {"pearson": pearson, "spearman": spearman, "points": len(pairs)}
