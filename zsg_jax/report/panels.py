"""Draws panels of lines under one another, in one style: what the figures have in common."""

import io
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zsg_jax.report.labels import end_labels, shorten
from zsg_jax.report.summary import number

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
    "axes.titlesize": 11,
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
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}
ROUND_STEPS = [1, 2, 2.5, 5, 10]  # between ticks, times a power of ten
WIDTH = 8.0  # inches; shown about 800 pixels wide


class Look(NamedTuple):
    """How an arrangement is drawn, everywhere."""

    color: str
    dash: Any


class Line(NamedTuple):
    """Values (S,) at steps (S,), and half the height of a band about them."""

    steps: Sequence[int] | np.ndarray
    values: Sequence[float | None] | np.ndarray
    spread: Sequence[float | None] | None = None


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The colour and dash of every arrangement, by its place in `names`."""
    return {
        name: Look(COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)])
        for i, name in enumerate(dict.fromkeys(names))
    }


def to_svg(figure: Figure) -> bytes:
    """`figure` as SVG without a date, so that building it again gives the same bytes."""
    out = io.BytesIO()
    with rc_context(STYLE), warnings.catch_warnings():
        # Text is written as text: a glyph that matplotlib's font lacks is the viewer's to draw.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def stacked(
    panels: Sequence[tuple[str, str, Mapping[str, Line]]],
    style: Mapping[str, Look],
    row_height: float,
    width: float = 1.8,
) -> Figure:
    """Panels (label of the loss axis, title, lines) under one another on one step axis."""
    row_height = max(row_height, 0.19 * len(style) + 0.8)
    height = row_height * len(panels)
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False).ravel()
    # Room by the count of letters: exact metrics would hang on the fonts of the viewer anyhow.
    letters = max(len(shorten(name)) for name in style)
    titled = any(title for _, title, _ in panels)
    figure.subplots_adjust(
        left=0.72 / WIDTH,
        right=1 - (0.5 + 0.088 * letters) / WIDTH,
        bottom=0.55 / height,
        top=1 - (0.35 if titled else 0.15) / height,
        hspace=0.25 if titled else 0.12,
    )
    for ax, (label, title, lines) in zip(axes, panels, strict=True):
        for name, line in lines.items():
            values, spread = as_array(line.values), as_array(line.spread)
            look: dict[str, Any] = {"color": style[name].color, "ls": style[name].dash, "lw": width}
            ax.plot(line.steps, values, marker="o" if len(values) <= 30 else None, ms=3.2, **look)
            if spread.size:
                ax.fill_between(
                    line.steps,
                    values - spread,
                    values + spread,
                    color=look["color"],
                    alpha=0.18,
                    lw=0,
                )
        ax.set_ylabel(label)
        ax.set_title(title)
        ax.margins(x=0.012)
        ax.xaxis.set_major_locator(MaxNLocator(9, steps=ROUND_STEPS, integer=True))
    axes[-1].set_xlabel("step")
    for ax, (_, _, lines) in zip(axes, panels, strict=True):
        end_labels(ax, {name: _end(line) for name, line in lines.items()}, style)
    return figure


def as_array(curve: Sequence[float | None] | np.ndarray | None) -> np.ndarray:
    """A curve as float64 (S,), NaN for null; (0,) for None."""
    return np.array([number(value) for value in ([] if curve is None else curve)], np.float64)


def _end(line: Line) -> tuple[float, float]:
    """The last finite point of a line; NaN where none is."""
    values = as_array(line.values)
    last = np.flatnonzero(np.isfinite(values))[-1:]
    return (float(line.steps[last[0]]), float(values[last[0]])) if last.size else (0.0, math.nan)
