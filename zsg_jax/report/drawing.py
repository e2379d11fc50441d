"""Draws panels of lines on a step axis, in one style: what all figures have in common."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from zsg_jax.report.curves import number
from zsg_jax.report.hover import printable, tell_points
from zsg_jax.report.words import plain_name

# Okabe and Ito's colours, told apart under all common colour blindnesses; their yellow is left
# out because it is not legible on white. Past seven arrangements the dash tells them apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))

# Any, since matplotlib's own type lists every key there is, and lists differ by version.
STYLE: Any = {
    "svg.hashsalt": "zsg_jax",  # otherwise element ids are random
    "svg.fonttype": "none",  # text stays text: searchable, read aloud, and small
    "text.parse_math": False,  # a task may be named with a dollar
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#777777",
    "axes.labelcolor": "#222222",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "text.color": "#222222",
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}
ROUND_STEPS = [1, 2, 2.5, 5, 10]  # between ticks, times a power of ten
WIDTH = 8.0  # inches; shown about 800 pixels wide
MAX_NAME = 28
MOST_PLAIN = 6  # names of a key that stand with their plain names


class Look(NamedTuple):
    """How an arrangement is drawn, everywhere."""

    color: str
    dash: Any


class Line(NamedTuple):
    """Values (S,) at steps (S,), and half the height of a band about them."""

    steps: Sequence[int] | np.ndarray
    values: Sequence[float | None] | np.ndarray
    spread: Sequence[float | None] | None = None


class Outline(NamedTuple):
    """A histogram: heights (B,) between edges (B + 1,)."""

    heights: np.ndarray
    edges: np.ndarray


class Panel(NamedTuple):
    """A panel: the label of its own axis, its title, and lines by arrangement.

    With `from_zero` its axis starts at zero, so that what hardly moves looks flat. At the step
    `window`, if any, stands a line.
    """

    label: str
    title: str
    lines: Mapping[str, Line]
    from_zero: bool = False
    window: int | None = None


class Captioned(NamedTuple):
    """A figure with its heading, how to read it, and a description for those who cannot see it."""

    figure: Figure
    heading: str
    caption: str
    alt: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The colour and dash of every arrangement, by its place in `names`."""
    return {
        name: Look(COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def shorten(name: str, limit: int = MAX_NAME) -> str:
    """`name` with its middle left out past `limit` letters, and without control characters.

    Names of tasks tend to differ at both ends.
    """
    clean = printable(name)
    if len(clean) <= limit:
        return clean
    tail = (limit - 1) // 2
    return f"{clean[: limit - 1 - tail]}…{clean[-tail:]}"


@rc_context(STYLE)
def draw(
    panels: Sequence[Panel],
    style: Mapping[str, Look],
    *,
    columns: int = 3,
    height: float = 1.45,
    note: str = "",
) -> Figure:
    """Panels on one step axis, the key above, `note` below; what is not finite is not drawn.

    An axis is labelled at the left end of a row, and wherever its label differs from the left one.

    Args:
        panels: at least one.
        style: of every arrangement, in the order of the key.
        columns: panels side by side at most.
        height: of a row of panels, in inches.
    """
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    below = 0.32 if note else 0.06
    figure, axes = _below_key(style, height * rows, rows, columns, below, sharex=True)
    size = 10.0 if columns == 1 else 8.5
    for i, ax in enumerate(axes):
        if i >= len(panels):
            ax.set_visible(False)
            continue
        _draw_panel(ax, panels[i], style, small=columns > 1)
        if i + columns >= len(panels):
            # In a ragged last row the panels above the gaps carry the step axis themselves.
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("step", fontsize=size)
        left = i - i % columns
        if i == left or panels[i].label != panels[left].label:
            ax.set_ylabel(panels[i].label, fontsize=size)
    if note:
        at = 0.1 / figure.get_figheight()
        figure.text(0.012, at, note, fontsize=9, color="#555555", va="bottom")
    return figure


@rc_context(STYLE)
def draw_outlines(
    panels: Mapping[str, Mapping[str, Outline]], style: Mapping[str, Look], across: str, up: str
) -> Figure:
    """Histograms side by side on the same axes, each of several outlines; the key above.

    Args:
        panels: title → arrangement → outline.
        style: of every arrangement, in the order of the key.
        across, up: labels of the axes.
    """
    figure, axes = _below_key(style, 2.6, 1, len(panels), sharex=True, sharey=True)
    for ax, (title, outlines) in zip(axes, panels.items(), strict=True):
        for name, one in outlines.items():
            color, dash = style[name]
            ax.stairs(one.heights, one.edges, color=color, ls=dash, lw=1.6)
        ax.set_title(title, fontsize=8.5)
        ax.set_xlabel(across, fontsize=8.5)
    axes[0].set_ylabel(up, fontsize=8.5)
    return figure


def panels_of(
    height: float,
    columns: int = 1,
    rows: int = 1,
    *,
    rect: tuple[float, float, float, float] = (0, 0, 1, 1),
    **shared: Any,
) -> tuple[Figure, list[Axes]]:
    """A figure as wide as the page, and its axes; `rect` and `shared` as matplotlib takes them."""
    layout = ConstrainedLayoutEngine(rect=rect, h_pad=0.06, w_pad=0.06)
    figure = Figure(figsize=(WIDTH, height), layout=layout)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).ravel())


def _below_key(
    style: Mapping[str, Look],
    height: float,
    rows: int,
    columns: int,
    below: float = 0.0,
    **shared: Any,
) -> tuple[Figure, list[Axes]]:
    """Panels of that height in all, in inches, the key above them and room `below`."""
    labels = _labels(style)
    # By the count of letters: exact metrics would hang on the fonts of the viewer anyhow.
    names_in_row = max(1, int(WIDTH * 72 / (6.2 * max(map(len, labels)) + 42)))
    key = 0.22 * math.ceil(len(style) / names_in_row) + 0.12
    whole = height + key + below
    rect = (0, below / whole, 1, 1 - (key + below) / whole)
    figure, axes = panels_of(whole, columns, rows, rect=rect, **shared)
    figure.legend(
        [Line2D([], [], color=look.color, ls=look.dash) for look in style.values()],
        labels,
        loc="upper left",
        ncols=min(names_in_row, len(style)),
        fontsize=9.5,
        handlelength=2.2,
        borderaxespad=0.2,
    )
    return figure, axes


def _labels(style: Mapping[str, Look]) -> list[str]:
    """The names of a key, where they are few each with its plain name."""
    plain = {name: plain_name(name) if len(style) <= MOST_PLAIN else "" for name in style}
    return [shorten(name) + (f" ({words})" if words else "") for name, words in plain.items()]


def _draw_panel(ax: Axes, panel: Panel, style: Mapping[str, Look], *, small: bool) -> None:
    top = bottom = 0.0
    for name, line in panel.lines.items():
        values, spread = _array(line.values), _array(line.spread)
        there = np.isfinite(values)
        steps, values = np.asarray(line.steps)[there], values[there]
        color, dash = style[name]
        # Few points, as of a measure that is taken seldom, are shown as such.
        marker = "o" if len(values) <= (8 if small else 30) else None
        width, dot = (1.4, 2.4) if small else (1.8, 3.2)
        ax.plot(steps, values, color=color, ls=dash, lw=width, marker=marker, ms=dot)
        about = [f" ± {one:.2g}" for one in spread[there]] if spread.size else [""] * len(steps)
        told = zip(steps.tolist(), values.tolist(), about, strict=True)
        texts = [f"{name}, step {step:,.8g}: {value:.4g}{more}" for step, value, more in told]
        tell_points(ax, steps, values, texts, name)
        if spread.size:
            low, high = values - spread[there], values + spread[there]
            ax.fill_between(steps, low, high, color=color, alpha=0.18, lw=0)
        top, bottom = max(top, *values, 0.0), min(bottom, *values, 0.0)
    if panel.window is not None:
        ax.axvline(panel.window, color="#777777", lw=1, ls=(0, (4, 3)), zorder=0.5)
    if panel.from_zero or top == bottom:  # a line of zeros has no range of its own
        ax.set_ylim(1.08 * bottom, 1.08 * top or 1.0)
    ax.set_title(panel.title, fontsize=8.5)
    if small:
        ax.tick_params(labelsize=8, length=2)
        ax.yaxis.set_major_locator(MaxNLocator(3, steps=ROUND_STEPS))
    ticks = 4 if small else 9
    ax.xaxis.set_major_locator(MaxNLocator(ticks, steps=ROUND_STEPS, integer=True))


def _array(curve: Sequence[float | None] | np.ndarray | None) -> np.ndarray:
    """A curve as float64 (S,), NaN for null; (0,) for None."""
    return np.array([number(value) for value in ([] if curve is None else curve)], np.float64)
