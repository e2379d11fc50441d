"""Draws the figures of a report, each with its caption; the same bytes for the same numbers.

Every function takes what `zsg_jax.report.summary.summarize` returns, and gives None where there is
nothing to draw. No pyplot, so nothing global is touched and nothing needs a display. An
arrangement has one colour and dash in all figures.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zsg_jax.report.correlation import having, measured
from zsg_jax.report.drawing import Captioned, Line, Panel, draw, looks, shorten
from zsg_jax.report.summary import Runs, number, records_by_step
from zsg_jax.similarity.trajectory import MEASURES, Trajectory

MAX_TASKS = 24
SMOOTHING = 40  # the running mean of the training loss spans this fraction of a run: 1/40
MAX_POINTS = 400  # drawn on a smoothed line; more would only make the file heavier
TITLES = {
    "nearest": "nearest row seen",
    "average": "average over pairs",
    "minimum": "smallest of all pairs",
    "maximum": "largest of all pairs",
    "wsd": "weighted (WSD)",
    "centroid": "between the means",
    "transport": "optimal transport",
    "divergence": "KL of word 2-grams",
}


def loss_figure(summary: Mapping[str, Any]) -> Captioned:
    """Mean test loss against step, a line an arrangement, a band of ±1 standard deviation."""
    entries = summary["arrangements"]
    several = any(len(entry["seeds"]) > 1 for entry in entries.values())
    finals = [(name, entry["final_loss"]["mean"]) for name, entry in entries.items()]
    ends = "; ".join(
        f"{shorten(name)} ends at {'–' if loss is None else f'{loss:.4f}'}" for name, loss in finals
    )
    return Captioned(
        draw([Panel("test loss", "", _loss_lines(summary))], looks(entries), columns=1, height=4.0),
        "Test loss",
        "Mean loss on the test rows against optimizer step. A line that falls further left learned "
        "sooner; a line that ends lower learned more."
        + (" The band is ±1 sample standard deviation over seeds." if several else ""),
        f"Line chart of test loss against step for {len(entries)} arrangements: {ends}.",
    )


def pick_tasks(summary: Mapping[str, Any], limit: int = MAX_TASKS) -> tuple[list[str], int]:
    """The tasks to draw and how many there are in all.

    At most `limit`, spread evenly over the ranking by final loss (mean over arrangements), lowest
    and highest included: a choice that favours no arrangement. Given in order of name.
    """
    finals: dict[str, list[float]] = {}
    for entry in summary["arrangements"].values():
        for task, curve in entry["loss_by_task"].items():
            finals.setdefault(task, []).append(number(curve[-1]))
    if len(finals) <= limit:
        return sorted(finals), len(finals)

    def rank(task: str) -> tuple[bool, float, str]:
        mean = sum(finals[task]) / len(finals[task])
        return (math.isnan(mean), 0.0 if math.isnan(mean) else mean, task)

    ranked = sorted(finals, key=rank)
    places = np.linspace(0, len(ranked) - 1, limit).round().astype(int)
    return sorted(ranked[place] for place in places), len(ranked)


def loss_by_task_figure(summary: Mapping[str, Any]) -> Captioned | None:
    """Mean test loss against step, one panel a task; None for fewer than two tasks.

    Every panel has its own loss axis, and each starts at zero, so that a loss that hardly moves
    looks flat. `pick_tasks` chooses; the figure says how many were left out.
    """
    tasks, total = pick_tasks(summary)
    if total < 2:
        return None
    entries = summary["arrangements"]
    panels = []
    for task in tasks:
        lines = {
            name: Line(entry["steps"], entry["loss_by_task"][task])
            for name, entry in entries.items()
            if task in entry["loss_by_task"]
        }
        panels.append(Panel("test loss", shorten(task, 36), lines, from_zero=True))
    caption = (
        "One panel for each task, mean over seeds. Every panel has its own loss axis from zero, so "
        "compare shapes across panels and lines inside one."
    )
    if len(tasks) < total:
        caption += (
            f" {len(tasks)} of {total} tasks are drawn, evenly spaced in the ranking by final loss "
            "(mean over arrangements), lowest and highest included; "
            f"{total - len(tasks)} are left out here and stand in the table below."
        )
    return Captioned(
        draw(panels, looks(entries), note=_left_out(len(tasks), total)),
        "Test loss by task",
        caption,
        f"Small line charts of test loss against step for {len(tasks)} of {total} tasks; the final "
        "values stand in the table of tasks.",
    )


def train_loss_figure(runs: Runs) -> Captioned | None:
    """Training loss against step: mean over seeds, smoothed by a centred running mean.

    Only steps that every seed of an arrangement has; None without train records.
    """
    lines, widest = {}, 1
    for name, by_seed in runs.items():
        seeds = [records_by_step(records, "train") for records in by_seed.values()]
        steps = sorted(set.intersection(*map(set, seeds))) if seeds else []
        if steps:
            losses = [np.mean([number(seed[s].get("loss")) for seed in seeds]) for s in steps]
            window = 2 * (len(steps) // SMOOTHING // 2) + 1
            widest = max(widest, window)
            keep = np.linspace(0, len(steps) - 1, min(len(steps), MAX_POINTS)).round().astype(int)
            lines[name] = Line(np.array(steps)[keep], running_mean(np.array(losses), window)[keep])
    if not lines:
        return None
    label = "training loss" if widest == 1 else f"training loss, mean of {widest} steps"
    return Captioned(
        draw([Panel(label, "", lines)], looks(runs), columns=1, height=3.6),
        "Training loss",
        "Loss of each step's own training rows, mean over seeds, smoothed by a centred running "
        "mean. Arrangements train on different rows at a step, so this says how hard the data is "
        "as much as what was learned.",
        f"Line chart of smoothed training loss against step for {len(runs)} arrangements.",
    )


def scores_figure(summary: Mapping[str, Any]) -> Captioned | None:
    """Every score of the test records against step, one panel a score; None without scores."""
    entries = summary["arrangements"]
    panels = []
    for score in sorted({score for entry in entries.values() for score in entry["scores"]}):
        found = {k: e["scores"][score] for k, e in entries.items() if score in e["scores"]}
        lines = {k: Line(c["steps"], c["mean"], c["std"]) for k, c in found.items()}
        panels.append(Panel(shorten(score), "", lines))
    if not panels:
        return None
    return Captioned(
        draw(panels, looks(entries), columns=1, height=2.3),
        "Scores",
        "The other measures taken on the test rows, mean over seeds, each on its own axis.",
        "Line charts of each score against step for every arrangement.",
    )


def similarity_figure(
    summary: Mapping[str, Any], trajectories: Mapping[str, Trajectory]
) -> Captioned | None:
    """One panel a measure, and the test loss beside them; None without trajectories."""
    if not trajectories:
        return None
    measures, panels = measured(trajectories), []
    for measure in measures:
        lines = {n: Line(t.step, t.values[measure]) for n, t in having(trajectories, measure)}
        panels.append(Panel(_unit(measure), TITLES[measure], lines))
    panels.append(Panel("test loss", "test loss", _loss_lines(summary)))
    meanings = "; ".join(f"{TITLES[measure]}: {MEASURES[measure]}" for measure in measures)
    return Captioned(
        draw(panels, looks([*summary["arrangements"], *trajectories])),
        "Distance of the data seen so far",
        "How far all training rows seen so far are from the test rows, beside the test loss: does "
        "the loss fall where a distance falls? Every panel has an axis of its own. "
        f"{meanings[0].upper()}{meanings[1:]}.",
        f"Small line charts against step, one for each of {len(measures)} distances between the "
        "training rows seen so far and the test rows, and one of the test loss.",
    )


def similarity_by_task_figure(
    summary: Mapping[str, Any], trajectories: Mapping[str, Trajectory]
) -> Captioned | None:
    """The first measure toward the rows of each task; None for fewer than two tasks.

    The tasks are those of the figure of losses by task.
    """
    tasks, total = pick_tasks(summary)
    measures = measured(trajectories)
    if total < 2 or not measures:
        return None
    first, panels = measures[0], []
    for task in tasks:
        lines = {
            name: Line(points.step, points.by_task[task][first])
            for name, points in having(trajectories, first)
            if task in points.by_task
        }
        panels.append(Panel(_unit(first), shorten(task, 36), lines))
    if not any(panel.lines for panel in panels):
        return None
    style = looks([*summary["arrangements"], *trajectories])
    return Captioned(
        draw(panels, style, note=_left_out(len(tasks), total)),
        "Distance of the data seen so far by task",
        f"{MEASURES[first].capitalize()}, for the rows of each task alone. Every panel has an axis "
        "of its own.",
        "Small line charts against step, one for each task, of the distance from its test rows to "
        "the training rows seen so far.",
    )


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of `values` (S,) over the odd `window` about each place, cut short at both ends."""
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _loss_lines(summary: Mapping[str, Any]) -> dict[str, Line]:
    """Mean test loss of every arrangement, with its spread over seeds."""
    entries = summary["arrangements"].items()
    return {name: Line(e["steps"], e["loss_mean"], e["loss_std"]) for name, e in entries}


def _left_out(drawn: int, total: int) -> str:
    """The line below a figure that does not draw all tasks; nothing below one that does."""
    if total == drawn:
        return ""
    return (
        f"{drawn} of {total} tasks, evenly spaced in the ranking by final loss; "
        f"{total - drawn} left out."
    )


def _unit(measure: str) -> str:
    return "nats" if measure == "divergence" else "distance"
