"""Draws what an order does along its positions, the same bytes for the same numbers.

Every function gives a matplotlib `Figure` without pyplot, or None where there is nothing to draw.
Positions are counted from 1 in all that is written, and `edges` are those of `bins`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from zsg_jax.report.drawing import COLORS, ROUND_STEPS, STYLE, WIDTH, shorten
from zsg_jax.report.explain.bins import bin_edges, bin_means, bin_percentiles

BAND = (10, 90)  # percentiles drawn about a mean
MAX_LINES = 40  # changes of turn drawn as a line each; more would hide the curves
MAX_BARS = 400  # turns drawn on their own
MEAN, BEST, OTHERS = COLORS[0], COLORS[1], "#d6d8da"
POSITION = "position in the order (row)"


def turn_starts(turn: np.ndarray) -> np.ndarray:
    """Positions, from 0, at which the turn of an order (n,) differs from that just before."""
    return np.concatenate([[0], np.flatnonzero(np.diff(turn)) + 1])


def follow_one_another(turn: np.ndarray) -> bool:
    """Whether turns come by number, up or down, so that each has a place of its own."""
    steps = np.diff(turn[turn_starts(turn)])
    return bool((steps > 0).all() or (steps < 0).all())


@rc_context(STYLE)
def similarity_figure(
    mean: np.ndarray, best: np.ndarray, first_met: np.ndarray, turn: np.ndarray, edges: np.ndarray
) -> Figure:
    """Cosines to the test rows by position, above the share of test rows that met their nearest.

    Args:
        mean, best: (n,) cosine over all test rows and with the nearest one.
        first_met: (T,) position, from 0, of each test row's nearest row.
        turn: (n,) int, by position.
        edges: (B + 1,) bins of the curves.
    """
    figure = Figure(figsize=(WIDTH, 5.6))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    figure.subplots_adjust(
        left=0.72 / WIDTH, right=1 - 0.45 / WIDTH, bottom=0.53 / 5.6, top=1 - 0.62 / 5.6, hspace=0.2
    )
    # Lower first, so that the key stands in the order of the curves, the upper one on top.
    for values, color, label in (
        (best, BEST, "with the nearest test row"),
        (mean, MEAN, "mean over the test rows"),
    ):
        low, high = bin_percentiles(values, edges, BAND)
        curve = bin_means(values, edges)
        top.fill_between(*_steps(edges, low, high), color=color, alpha=0.16, lw=0)
        top.plot(*_steps(edges, curve), color=color, label=label, lw=1.5)
    top.set_ylabel("cosine")
    top.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.07), ncols=2, borderaxespad=0)
    _mark_turns([top, bottom], turn)

    met = np.sort(first_met) + 1
    share = 100 * np.arange(1, len(met) + 1) / len(met)
    x, y = np.array([0, *met, len(turn)]), np.array([0, *share, 100])
    bottom.plot(x, y, drawstyle="steps-post", color=COLORS[2], lw=1.5)
    bottom.set_ylim(0, 104)
    bottom.set_ylabel("test rows met, %")
    position_axis(bottom, len(turn))
    return figure


@rc_context(STYLE)
def turns_figure(turn: np.ndarray) -> Figure | None:
    """How many rows each turn has, and where turns stand in the order; None for a single turn."""
    numbers, sizes = np.unique(turn.astype(np.int64), return_counts=True)
    if len(numbers) < 2:
        return None
    figure = Figure(figsize=(WIDTH, 2.5))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(
        left=0.72 / WIDTH,
        right=1 - 0.45 / WIDTH,
        bottom=0.53 / 2.5,
        top=1 - 0.32 / 2.5,
        wspace=0.26,
    )
    many = len(numbers) > MAX_BARS
    groups = bin_edges(len(numbers), MAX_BARS)
    starts = np.concatenate([numbers[groups[:-1]], [numbers[-1] + 1]]) - 0.5
    left.stairs(bin_means(sizes, groups), starts, fill=True, color=COLORS[5])
    left.set_title("rows in each turn" + (", mean of neighbours" if many else ""), fontsize=10)
    left.set_ylabel("rows")
    left.set_xlabel("turn")
    left.xaxis.set_major_locator(MaxNLocator(5, steps=ROUND_STEPS, integer=True))

    for axis in (left.xaxis, left.yaxis, right.yaxis):
        axis.set_major_formatter(thousands())
    edges = bin_edges(len(turn), MAX_BARS)
    parts = np.split(turn, edges[1:-1])
    low, high = np.array([(part.min(), part.max()) for part in parts]).T
    right.fill_between(*_steps(edges, low, high), color=COLORS[5], alpha=0.45, lw=0)
    right.plot(*_steps(edges, bin_means(turn, edges)), color=MEAN, lw=1.5)
    right.set_title("turn by position: mean and range", fontsize=10)
    right.set_ylabel("turn")
    right.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND_STEPS, integer=True))
    position_axis(right, len(turn), 4)
    return figure


@rc_context(STYLE)
def mix_figure(shares: np.ndarray, names: Sequence[str], others: str, edges: np.ndarray) -> Figure:
    """Share of each task by position, stacked; what is not named comes last, on top.

    Args:
        shares: (len(names) + 1, B), those of the named tasks and of all others together.
        names: of the named tasks.
        others: what the rest is called; it is drawn only if it has rows.
        edges: (B + 1,).
    """
    height = max(3.4, 0.225 * len(names) + 1.0)
    figure = Figure(figsize=(WIDTH, height))
    ax = figure.subplots()
    figure.subplots_adjust(
        left=0.72 / WIDTH, right=1 - 2.75 / WIDTH, bottom=0.53 / height, top=1 - 0.15 / height
    )
    rest = bool(shares[-1].any())
    # Where the named tasks are few among many, the lower part of the stack is what can be read.
    named = 100 * float(shares[:-1].sum(axis=0).max(initial=0.0))
    cut = rest and named < 60
    ceiling = max(1.15 * named, 1.0) if cut else 100.0
    floor = np.zeros(len(edges) - 1)
    for i, share in enumerate(shares if rest else shares[:-1]):
        if i < len(names):
            color, label = _color(i), shorten(names[i], 32)
        else:
            color, label = OTHERS, others + (", up to 100 %" if cut else "")
        above = floor + 100 * share
        x, low, high = _steps(edges, floor, np.minimum(above, ceiling))
        ax.fill_between(x, low, high, color=color, label=label, lw=0)
        ax.plot(x, high, color="white", lw=0.5)
        floor = above
    ax.set_ylim(0, ceiling)
    ax.set_ylabel("share of the rows, %")
    ax.grid(visible=False)
    position_axis(ax, int(edges[-1]), 6)
    ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        reverse=True,
        fontsize=8.5,
        handlelength=1.1,
        handleheight=1.0,
        labelspacing=0.45,
        borderaxespad=0.2,
    )
    return figure


def _steps(edges: np.ndarray, *values: np.ndarray) -> list[Any]:
    """A level line over each bin: x and, for each of the values (B,), y; one bin has a width."""
    return [np.repeat(edges, 2)[1:-1], *(np.repeat(value, 2) for value in values)]


def position_axis(ax: Axes, n: int, ticks: int = 8) -> None:
    """Makes the level axis one of positions, of which there are n."""
    ax.set_xlim(0, n)
    ax.set_xlabel(POSITION)
    ax.xaxis.set_major_locator(MaxNLocator(ticks, steps=ROUND_STEPS, integer=True))
    ax.xaxis.set_major_formatter(thousands())


def thousands() -> FuncFormatter:
    """Writes ticks as whole numbers with commas."""
    return FuncFormatter(lambda value, _: f"{value:,.0f}")


def _mark_turns(axes: Sequence[Axes], turn: np.ndarray) -> None:
    """Lines where the turn changes, where they are few; turns' numbers along the top."""
    starts = turn_starts(turn)
    if 1 < len(starts) <= MAX_LINES + 1:
        for ax in axes:
            for start in starts[1:]:
                ax.axvline(int(start), color="#b5b9bd", lw=0.7, zorder=0.9)
    if len(starts) == 1 or not follow_one_another(turn):
        return
    wanted = np.linspace(0, len(turn), 9)[:-1]
    # The turns that begin nearest to even places: a turn is written where it begins.
    shown = np.unique(starts[np.abs(starts[:, None] - wanted[None]).argmin(axis=0)])
    far = [int(shown[0])]
    for start in shown[1:]:
        if start - far[-1] >= len(turn) / 14:
            far.append(int(start))
    top = axes[0].secondary_xaxis("top")
    top.set_xticks(far, [f"{turn[start]:,}" for start in far])
    top.tick_params(labelsize=8.5, length=3, pad=1)
    top.spines["top"].set_visible(False)
    # The word stands left of the numbers, at their height.
    axes[0].annotate(
        "turn",
        (0, 1),
        (-14, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color="#555555",
    )


def _color(i: int) -> Any:
    """Six hues, and then their tints."""
    hues = COLORS[:6]
    red, green, blue = to_rgb(hues[i % len(hues)])
    white = (0.0, 0.5, 0.75)[i // len(hues) % 3]
    return tuple(channel + (1 - channel) * white for channel in (red, green, blue))
