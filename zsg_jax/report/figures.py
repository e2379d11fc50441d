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
from zsg_jax.report.curves import even_places, number
from zsg_jax.report.drawing import Captioned, Line, Panel, draw, looks, shorten
from zsg_jax.report.metrics import METRICS, metric_of
from zsg_jax.report.summary import GROUPS, Runs, curve_of, over_tasks, records_by_step
from zsg_jax.similarity.trajectory import MEASURES, Trajectory
from zsg_jax.statistics.steadiness import running_mean

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


def metric_figure(summary: Mapping[str, Any], metric: str = "loss") -> Captioned | None:
    """A metric against step, a line an arrangement, a band of ±1 standard deviation."""
    entries, shown = summary["arrangements"], METRICS[metric]
    curves = _curves(summary, metric)
    if not curves:
        return None
    several = any(len(entry["seeds"]) > 1 for entry in entries.values())
    finals = [(name, curve["final"]["mean"]) for name, curve in curves.items()]
    ends = "; ".join(
        f"{shorten(name)} ends at {'–' if value is None else f'{value:.{shown.digits}f}'}"
        for name, value in finals
    )
    way = "falls" if shown.best is min else "rises"
    window = summary["window"]
    panel = Panel(shown.label, "", _lines(curves), window=window)
    return Captioned(
        draw([panel], looks(entries), columns=1, height=4.0),
        shown.title,
        f"{shown.meaning} Mean over seeds against optimizer step: a line that {way} further left "
        f"learned sooner; one that ends {'lower' if shown.best is min else 'higher'} learned more."
        + (" The band is ±1 sample standard deviation over seeds." if several else "")
        + (
            f" The dashed line is the end of the window, step {window}."
            if window is not None
            else ""
        ),
        f"Line chart of {shown.label} against step for {len(curves)} arrangements: {ends}.",
    )


def pick_tasks(
    summary: Mapping[str, Any], metric: str = "loss", group: str = "by_task"
) -> tuple[list[str], int]:
    """The tasks, or parts of another group of `GROUPS`, to draw, and how many there are in all.

    At most `MAX_TASKS`, spread evenly over the ranking by final value (mean over arrangements),
    lowest and highest included: a choice that favours no arrangement. Given in order of name.
    """
    finals: dict[str, list[float]] = {}
    for curve in _curves(summary, metric).values():
        for task, values in curve[group].items():
            finals.setdefault(task, []).append(number(values[-1]))
    # NaN, of what was not measured to the end, comes last.
    ranked = sorted(
        finals, key=lambda task: (np.nan_to_num(np.mean(finals[task]), nan=np.inf), task)
    )
    places = even_places(len(ranked), MAX_TASKS)
    return sorted(ranked[place] for place in places), len(ranked)


def by_group_figure(
    summary: Mapping[str, Any], metric: str = "loss", group: str = "by_task"
) -> Captioned | None:
    """Mean of a metric against step, one panel a task or target set; None for fewer than two.

    Every panel has its own axis, and each starts at zero, so that what hardly moves looks flat.
    `pick_tasks` chooses; the figure says how many were left out.
    """
    tasks, total = pick_tasks(summary, metric, group)
    one = GROUPS[group]
    if total < 2:
        return None
    shown, panels = METRICS[metric], []
    for task in tasks:
        lines = {
            name: Line(curve["steps"], curve[group][task])
            for name, curve in _curves(summary, metric).items()
            if task in curve[group]
        }
        panels.append(Panel(shown.label, shorten(task, 36), lines, from_zero=True))
    caption = (
        f"One panel for each {one}, mean over seeds. Every panel has its own axis from zero, so "
        "compare shapes across panels and lines inside one."
    )
    note = _left_out(len(tasks), total, one)
    if note:
        caption += f" {note} The table below has them all."
    return Captioned(
        draw(panels, looks(summary["arrangements"]), note=note),
        f"{shown.title} by {one}",
        caption,
        f"Small line charts of {shown.label} against step, {len(tasks)} of {total}, one for each "
        f"{one}; the final values stand in the table by {one}.",
    )


def train_loss_figure(runs: Runs) -> Captioned | None:
    """Training loss against step: mean over seeds, smoothed by a centred running mean.

    The mean spans fewer steps toward both ends, where it stays centred. Only steps that every seed
    of an arrangement has; None without train records.
    """
    lines, widest = {}, 1
    for name, by_seed in runs.items():
        seeds = [records_by_step(records, "train") for records in by_seed.values()]
        steps = sorted(set.intersection(*map(set, seeds))) if seeds else []
        if steps:
            losses = [np.mean([number(seed[s].get("loss")) for seed in seeds]) for s in steps]
            window = 2 * (len(steps) // SMOOTHING // 2) + 1
            widest = max(widest, window)
            keep = even_places(len(steps), MAX_POINTS)
            lines[name] = Line(np.array(steps)[keep], running_mean(np.array(losses), window)[keep])
    if not lines:
        return None
    label = "training loss" if widest == 1 else f"training loss, mean of up to {widest} steps"
    return Captioned(
        draw([Panel(label, "", lines)], looks(runs), columns=1, height=3.6),
        "Training loss",
        "Loss of each step's own training rows, mean over seeds, smoothed by a centred running "
        "mean. Arrangements train on different rows at a step, so this says how hard the data is "
        "as much as what was learned.",
        f"Line chart of smoothed training loss against step for {len(runs)} arrangements.",
    )


def scores_figure(summary: Mapping[str, Any]) -> Captioned | None:
    """Every other number of the test records against step, one panel each; None without any.

    Means over tasks stand in the tables by task.
    """
    entries = summary["arrangements"]
    every = {score for entry in entries.values() for score in entry["scores"]}
    scores = every - METRICS.keys() - over_tasks(every).keys()
    panels = [
        Panel(shorten(metric_of(one).label, 36), "", _lines(_curves(summary, one)))
        for one in sorted(scores)
    ]
    if not panels:
        return None
    return Captioned(
        draw(panels, looks(entries), columns=1 + (len(panels) > 2), height=2.3),
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
    panels.append(Panel("test loss", "test loss", _lines(_curves(summary, "loss"))))
    meanings = "; ".join(f"{TITLES[measure]}: {MEASURES[measure]}" for measure in measures)
    return Captioned(
        draw(panels, looks([*summary["arrangements"], *trajectories])),
        "Distance of the data seen so far",
        "How far all training rows seen so far are from the test rows, beside the test loss: does "
        "the loss fall where a distance falls? Every panel has an axis of its own. "
        f"{meanings[0].upper()}{meanings[1:]}.{_followed(summary, trajectories)}",
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
        f"of its own.{_followed(summary, trajectories)}",
        "Small line charts against step, one for each task, of the distance from its test rows to "
        "the training rows seen so far.",
    )


def _followed(summary: Mapping[str, Any], trajectories: Mapping[str, Trajectory]) -> str:
    """Where distances end, if that is before the training does."""
    entries = summary["arrangements"]
    ends = {
        name: math.ceil(t.step[-1])
        for name, t in trajectories.items()
        if name in entries and t.step.size and math.ceil(t.step[-1]) < entries[name]["steps"][-1]
    }
    if not ends:
        return ""
    steps = " or ".join(map(str, sorted(set(ends.values()))))
    return (
        f" Distances end at step {steps}, with the first epoch or where rows are arranged anew; "
        "training goes on."
    )


def _curves(summary: Mapping[str, Any], metric: str) -> dict[str, Mapping[str, Any]]:
    """The curve of every arrangement in which the metric was measured."""
    found = {name: curve_of(e, metric) for name, e in summary["arrangements"].items()}
    return {name: curve for name, curve in found.items() if curve is not None}


def _lines(curves: Mapping[str, Mapping[str, Any]]) -> dict[str, Line]:
    """Means of arrangements, with their spread over seeds."""
    return {name: Line(one["steps"], one["mean"], one["std"]) for name, one in curves.items()}


def _left_out(drawn: int, total: int, part: str = "task") -> str:
    """The line below a figure that does not draw all parts; nothing below one that does."""
    if total == drawn:
        return ""
    return (
        f"{drawn} of {total} {part}s, evenly spaced in the ranking by final value; "
        f"{total - drawn} left out."
    )


def _unit(measure: str) -> str:
    return "nats" if measure == "divergence" else "distance"
