"""Draws the figures of a report as SVG, the same bytes for the same numbers.

Every function takes what `zsg_jax.report.summary.summarize` returns and gives a matplotlib
`Figure`, or None where there is nothing to draw. No pyplot, so nothing global is touched and
nothing needs a display. An arrangement has one colour and dash in all figures.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from zsg_jax.report.labels import shorten
from zsg_jax.report.panels import ROUND_STEPS, STYLE, WIDTH, Line, as_array, looks, stacked
from zsg_jax.report.summary import Runs, number, rows_by_step
from zsg_jax.similarity.trajectory import Trajectory

MAX_TASKS = 24
SMOOTHING = 40  # the running mean of the training loss spans this fraction of a run: 1/40
MAX_POINTS = 400  # drawn on a smoothed line; more would only make the file heavier


@rc_context(STYLE)
def loss_figure(summary: Mapping[str, Any]) -> Figure:
    """Mean test loss against step, a line an arrangement, a band of ±1 standard deviation."""
    return stacked([("test loss", "", _loss_lines(summary))], looks(summary["arrangements"]), 4.4)


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


@rc_context(STYLE)
def loss_by_task_figure(summary: Mapping[str, Any], limit: int = MAX_TASKS) -> Figure | None:
    """Mean test loss against step, one panel a task; None for fewer than two tasks.

    Every panel has its own loss axis, and each starts at zero, so that a loss that hardly moves
    looks flat. `pick_tasks` chooses; the figure says how many were left out.
    """
    tasks, total = pick_tasks(summary, limit)
    if total < 2:
        return None
    entries = summary["arrangements"]
    style = looks(entries)
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    names_in_row = max(1, int(WIDTH * 72 / (6.2 * max(len(shorten(n)) for n in entries) + 42)))
    key_height = 0.22 * math.ceil(len(entries) / names_in_row) + 0.12
    note_height = 0.32 if total > len(tasks) else 0.06
    height = 1.45 * rows + key_height + note_height
    room = (0, note_height / height, 1, 1 - (key_height + note_height) / height)
    layout = ConstrainedLayoutEngine(rect=room, h_pad=0.06, w_pad=0.06)
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for ax, task in zip(axes, tasks, strict=False):
        top = 0.0
        for name, entry in entries.items():
            if task in entry["loss_by_task"]:
                curve = as_array(entry["loss_by_task"][task])
                ax.plot(entry["steps"], curve, color=style[name].color, ls=style[name].dash, lw=1.4)
                top = max(top, *curve[np.isfinite(curve)], 0.0)
        ax.set_ylim(0, 1.08 * top or 1.0)
        ax.set_title(shorten(task, 36), fontsize=8.5)
        ax.tick_params(labelsize=8, length=2)
        ax.yaxis.set_major_locator(MaxNLocator(3, steps=ROUND_STEPS))
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=ROUND_STEPS, integer=True))
    for i, ax in enumerate(axes):
        if i >= len(tasks):
            ax.set_visible(False)
        elif i + columns >= len(tasks):
            # In a ragged last row the panels above the gaps carry the step axis themselves.
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("step", fontsize=8.5)
        if i % columns == 0:
            ax.set_ylabel("test loss", fontsize=8.5)
    figure.legend(
        [Line2D([], [], color=look.color, ls=look.dash) for look in style.values()],
        [shorten(name) for name in entries],
        loc="upper left",
        ncols=min(names_in_row, len(entries)),
        fontsize=9.5,
        handlelength=2.2,
        borderaxespad=0.2,
    )
    if total > len(tasks):
        note = (
            f"{len(tasks)} of {total} tasks, evenly spaced in the ranking by final loss; "
            f"{total - len(tasks)} left out."
        )
        figure.text(0.012, 0.1 / height, note, fontsize=9, color="#555555", va="bottom")
    return figure


@rc_context(STYLE)
def similarity_figure(
    summary: Mapping[str, Any], trajectories: Mapping[str, Trajectory]
) -> Figure | None:
    """Similarity of the data seen so far above the test loss; None without trajectories."""
    if not trajectories:
        return None
    means = {name: Line(t.step, t.mean_similarity) for name, t in trajectories.items()}
    bests = {name: Line(t.step, t.best_similarity) for name, t in trajectories.items()}
    panels = [
        ("mean cosine", "Mean similarity of all data seen so far to the test rows", means),
        ("best cosine", "Best similarity seen so far, mean over the test rows", bests),
        ("test loss", "Test loss", _loss_lines(summary)),
    ]
    return stacked(panels, looks([*summary["arrangements"], *trajectories]), 2.7)


@rc_context(STYLE)
def train_loss_figure(runs: Runs) -> Figure | None:
    """Training loss against step: mean over seeds, smoothed by a centred running mean.

    Only steps that every seed of an arrangement has; None without train rows.
    """
    lines, widest = {}, 1
    for name, by_seed in runs.items():
        rows = [rows_by_step(seed_rows, "train") for seed_rows in by_seed.values()]
        steps = sorted(set.intersection(*map(set, rows))) if rows else []
        if steps:
            losses = [np.mean([number(seed[s].get("loss")) for seed in rows]) for s in steps]
            window = 2 * (len(steps) // SMOOTHING // 2) + 1
            widest = max(widest, window)
            keep = np.linspace(0, len(steps) - 1, min(len(steps), MAX_POINTS)).round().astype(int)
            lines[name] = Line(np.array(steps)[keep], running_mean(np.array(losses), window)[keep])
    if not lines:
        return None
    told = "training loss" if widest == 1 else f"training loss, mean of {widest} steps"
    return stacked([(told, "", lines)], looks(runs), 4.0, width=1.4)


@rc_context(STYLE)
def scores_figure(summary: Mapping[str, Any]) -> Figure | None:
    """Every score of the test rows against step, one panel a score; None without scores."""
    entries = summary["arrangements"]
    names = sorted({score for entry in entries.values() for score in entry["scores"]})
    panels = []
    for score in names:
        found = {k: e["scores"][score] for k, e in entries.items() if score in e["scores"]}
        lines = {k: Line(c["steps"], c["mean"], c["std"]) for k, c in found.items()}
        panels.append((shorten(score), "", lines))
    return stacked(panels, looks(entries), 2.5) if panels else None


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of `values` (S,) over the odd `window` about each place, cut short at both ends."""
    half = window // 2
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _loss_lines(summary: Mapping[str, Any]) -> dict[str, Line]:
    entries = summary["arrangements"].items()
    return {name: Line(e["steps"], e["loss_mean"], e["loss_std"]) for name, e in entries}
