"""Draws what an order does along its positions, the same bytes for the same numbers.

Every function gives a figure with its caption. Positions are counted from 1 in all that is
written, and `edges` are those of `bins`.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from zsg_jax.report.drawing import COLORS, ROUND_STEPS, STYLE, WIDTH, Captioned, shorten
from zsg_jax.report.explain.bins import (
    bin_edges,
    bin_means,
    bin_percentiles,
    bin_shares,
    leading_groups,
)
from zsg_jax.report.explain.measures import Measured
from zsg_jax.report.hover import tell_boxes, tell_points
from zsg_jax.runtime.progress import percent

BAND = (10, 90)  # percentiles drawn about a mean
MAX_LINES = 40  # changes of turn drawn as a line each; more would hide the curves
MAX_BARS = 400  # turns drawn on their own
CURVE_BINS = 120
SHARE_BINS = 60
SHARE_ROWS = 100  # of a bin, for shares of tasks that are more than chance
NAMED_TASKS = 12
MEAN, BEST, OTHERS = COLORS[0], COLORS[1], "#d6d8da"


@rc_context(STYLE)
def similarity_figure(found: Measured, turn: np.ndarray) -> Captioned:
    """Cosines by position, above the share of the test rows that have met their nearest row."""
    n, edges = len(turn), bin_edges(len(turn), CURVE_BINS)
    figure, (top, bottom) = subplots(5.6, 2, 1, sharex=True, height_ratios=(2.6, 1))
    # Lower first, so that the key stands in the order of the curves, the upper one on top.
    for values, color, label in (
        (found.best, BEST, "with the nearest test row"),
        (found.mean, MEAN, "mean over the test rows"),
    ):
        low, high = bin_percentiles(values, edges, BAND)
        top.fill_between(*_steps(edges, low, high), color=color, alpha=0.16, lw=0)
        means = bin_means(values, edges)
        top.plot(*_steps(edges, means), color=color, label=label, lw=1.5)
        told = zip(stretches(edges), means, strict=True)
        texts = [f"{where}: cosine {label} {mean:.3f}" for where, mean in told]
        tell_points(top, (edges[:-1] + edges[1:]) / 2, means, texts)
    top.set_ylabel("cosine")
    top.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, borderaxespad=0)

    met = np.sort(found.positions[:, 0]) + 1
    share = 100 * np.arange(1, len(met) + 1) / len(met)
    x, y = np.array([0, *met, n]), np.array([0, *share, 100])
    bottom.plot(x, y, drawstyle="steps-post", color=COLORS[2], lw=1.5)
    # Of test rows that meet theirs at one position, the last tells.
    at = np.unique(met)
    by_then = np.searchsorted(met, at, side="right")
    counts = zip(at, by_then, strict=True)
    texts = [f"by row {one:,}: {count:,} of {len(met):,} test rows" for one, count in counts]
    tell_points(bottom, at, 100 * by_then / len(met), texts)
    bottom.set_ylim(0, 104)
    bottom.set_ylabel("test rows met, %")
    position_axis(bottom, n)

    changes, marks = np.flatnonzero(np.diff(turn)) + 1, ""
    if 0 < len(changes) <= MAX_LINES:
        marks = " Grey lines: the turn changes."
        for ax in (top, bottom):
            for position in changes:
                ax.axvline(int(position), color="#b5b9bd", lw=0.7, zorder=0.9)
    elif len(changes):
        marks = f" The turn changes {len(changes):,} times, too often for lines."
    return Captioned(
        figure,
        "Similarity by position",
        f"Top: cosine of the rows with the test rows, in {len(edges) - 1} stretches of about "
        f"{n / (len(edges) - 1):,.0f} rows: the mean over all test rows, and with the one test row "
        "that is nearest. Line: mean of the stretch; band: from its 10th to its 90th percentile. "
        "Bottom: share of the test rows whose single nearest row of this order has come by then."
        f"{marks} All rows are counted.",
        "Line charts by position: mean and nearest cosine to the test rows, and the share of test "
        "rows that have met their nearest row. The table above gives numbers.",
    )


@rc_context(STYLE)
def turns_figure(turn: np.ndarray) -> Captioned | None:
    """How many rows each turn has, and where turns stand in the order; None for a single turn."""
    numbers, sizes = np.unique(turn.astype(np.int64), return_counts=True)
    if len(numbers) < 2:
        return None
    figure, (left, right) = subplots(2.5, 1, 2)
    groups = bin_edges(len(numbers), MAX_BARS)
    starts = np.concatenate([numbers[groups[:-1]], [numbers[-1] + 1]]) - 0.5
    heights = bin_means(sizes, groups)
    left.stairs(heights, starts, fill=True, color=COLORS[5])
    texts = [
        f"turn {numbers[a]:,}: {rows:,.0f} rows"
        if b == a + 1
        else f"turns {numbers[a]:,} to {numbers[b - 1]:,}: {rows:,.4g} rows in the mean"
        for (a, b), rows in zip(pairwise(groups.tolist()), heights, strict=True)
    ]
    across = np.column_stack([starts[:-1], starts[1:]])
    up = np.column_stack([0 * heights, heights])
    tell_boxes(left, across, up, texts)
    many = len(numbers) > MAX_BARS
    left.set_title("rows in each turn" + (", mean of neighbours" if many else ""), fontsize=10)
    left.set_ylabel("rows")
    left.set_xlabel("turn")
    for axis in (left.xaxis, right.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=ROUND_STEPS, integer=True))
    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_formatter(thousands())
    edges = bin_edges(len(turn), MAX_BARS)
    low, high = np.array([(part.min(), part.max()) for part in np.split(turn, edges[1:-1])]).T
    right.fill_between(*_steps(edges, low, high), color=COLORS[5], alpha=0.45, lw=0)
    right.plot(*_steps(edges, bin_means(turn, edges)), color=MEAN, lw=1.5)
    right.set_title("turn by position: mean and range", fontsize=10)
    right.set_ylabel("turn")
    position_axis(right, len(turn), 4)
    each = f"each of {sizes.min():,} to {sizes.max():,} rows, {np.median(sizes):,g} in the median"
    if sizes.min() == sizes.max():
        each = f"each of {sizes.min():,} row{'s' if sizes.min() > 1 else ''}"
    return Captioned(
        figure,
        "Turns",
        f"{len(numbers):,} turns, {each}. Left: how many rows each turn has. Right: which turns "
        "the rows at a position are of; a thin line means that turns follow one another, a wide "
        "band that they are mixed.",
        f"Charts of the number of rows in each of {len(numbers):,} turns and of turn by position.",
    )


@rc_context(STYLE)
def mix_figure(task: np.ndarray, tasks: Sequence[str]) -> Captioned:
    """Share of each task by position, stacked; what is not named comes last, on top.

    Args:
        task: (n,) int64, that of each position, an index into `tasks`.
    """
    named = leading_groups(task, len(tasks), NAMED_TASKS)
    met = len(np.unique(task))
    rest = met - len(named)
    edges = share_edges(len(task))
    shares = shares_of(task, named, len(tasks), edges)
    figure, ax = subplots(max(3.4, 0.225 * len(named) + 1.0))
    # Where the named tasks are few among many, the lower part of the stack is what can be read.
    highest = 100 * float(shares[:-1].sum(axis=0).max(initial=0.0))
    cut = bool(rest) and highest < 60
    ceiling = max(1.15 * highest, 1.0) if cut else 100.0
    floor, areas, names = np.zeros(len(edges) - 1), [], []
    for i, share in enumerate(shares if rest else shares[:-1]):
        if i < len(named):
            color, label = _color(i), shorten(tasks[named[i]], 32)
        else:
            label = f"{rest:,} other task{'s' if rest > 1 else ''}"
            color, label = OTHERS, label + (", up to 100 %" if cut else "")
        above = floor + 100 * share
        x, low, high = _steps(edges, floor, np.minimum(above, ceiling))
        areas.append(ax.fill_between(x, low, high, color=color, lw=0))
        names.append(label)
        tell_shares(ax, edges, np.column_stack([low[::2], high[::2]]), share, label)
        ax.plot(x, high, color="white", lw=0.5)
        floor = above
    ax.set_ylim(0, ceiling)
    ax.set_ylabel("share of the rows, %")
    ax.grid(visible=False)
    position_axis(ax, len(task), 6)
    look: dict[str, Any] = {"handlelength": 1.1, "handleheight": 1.0, "labelspacing": 0.45}
    # Handed over: of labels that it looks for, Matplotlib leaves out those that begin with "_".
    look |= {"bbox_to_anchor": (1.01, 1.02), "reverse": True, "fontsize": 8.5}
    ax.legend(areas, names, loc="upper left", **look)
    caption = f"{'All tasks' if met > 1 else 'The one task'} of the rows."
    if rest:
        caption = (
            f"The {len(named)} of {met:,} tasks that make up the largest share of any tenth of the "
            "order, the largest at the bottom; all others are grey. Where the named ones are few, "
            "the axis ends below 100 %."
        )
    return Captioned(
        figure,
        "Mix of tasks by position",
        f"{caption} Stretches: {len(edges) - 1}; all rows are counted.",
        f"Stacked areas: share of {len(named)} of {met:,} tasks by position.",
    )


def subplots(height: float, *shape: int, dpi: int = 100, **options: Any) -> tuple[Figure, Any]:
    """A figure as wide as the page, and its axes."""
    figure = Figure(figsize=(WIDTH, height), dpi=dpi, layout="constrained")
    return figure, figure.subplots(*shape, **options)


def stretches(edges: np.ndarray) -> list[str]:
    """Each stretch in words, its rows counted from 1."""
    return [f"rows {a + 1:,} to {b:,}" for a, b in pairwise(edges.tolist())]


def tell_shares(ax: Axes, edges: np.ndarray, up: np.ndarray, share: np.ndarray, name: str) -> None:
    """Titles of the stretches in which something has a `share` (B,), from `up` (B, 2) to there."""
    some = share > 0
    across = np.column_stack([edges[:-1], edges[1:]])
    told = zip(stretches(edges), share, strict=True)
    texts = [f"{name}, {where}: {percent(of)}" for where, of in told if of > 0]
    tell_boxes(ax, across[some], up[some], texts)


def share_edges(n: int) -> np.ndarray:
    """Edges of the bins of n rows in which shares are counted."""
    return bin_edges(n, min(SHARE_BINS, max(10, n // SHARE_ROWS)))


def shares_of(codes: np.ndarray, named: np.ndarray, groups: int, edges: np.ndarray) -> np.ndarray:
    """(len(named) + 1, B) share of each named group in each bin, and of all others together."""
    line = np.full(groups, len(named))
    line[named] = np.arange(len(named))
    return bin_shares(line[codes], len(named) + 1, edges)


def position_axis(ax: Axes, n: int, ticks: int = 8) -> None:
    """Makes the level axis one of positions, of which there are n."""
    ax.set_xlim(0, n)
    ax.set_xlabel("position in the order (row)")
    ax.xaxis.set_major_locator(MaxNLocator(ticks, steps=ROUND_STEPS, integer=True))
    ax.xaxis.set_major_formatter(thousands())


def thousands() -> FuncFormatter:
    """Writes ticks as whole numbers with commas."""
    return FuncFormatter(lambda value, _: f"{value:,.0f}")


def _steps(edges: np.ndarray, *values: np.ndarray) -> list[Any]:
    """A level line over each bin: x and, for each of the values (B,), y; one bin has a width."""
    return [np.repeat(edges, 2)[1:-1], *(np.repeat(value, 2) for value in values)]


def _color(i: int) -> Any:
    """Six hues, and then their tints."""
    hues = COLORS[:6]
    white = (0.0, 0.5, 0.75)[i // len(hues) % 3]
    return tuple(channel + (1 - channel) * white for channel in to_rgb(hues[i % len(hues)]))
