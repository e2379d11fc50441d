"""Writes the names of lines at their right ends, without overlap."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

MAX_NAME = 28


def shorten(name: str, limit: int = MAX_NAME) -> str:
    """`name` with its middle left out past `limit` letters, and without control characters.

    Names of tasks tend to differ at both ends; a control character would make an SVG unreadable.
    """
    clean = "".join(letter if letter.isprintable() else " " for letter in name)
    if len(clean) <= limit:
        return clean
    tail = (limit - 1) // 2
    return f"{clean[: limit - 1 - tail]}…{clean[-tail:]}"


def spread(wanted: Sequence[float], gap: float, top: float) -> list[float]:
    """Moves `wanted` heights apart so that neighbours differ by `gap` at least, within [0, top].

    The moves are the least in squares: neighbours too close are set about their common mean.
    Order is kept, ties by place. Where `top` has no room for all, the gap shrinks evenly.
    """
    if not wanted:
        return []
    gap = min(gap, top / max(len(wanted) - 1, 1))
    order = np.argsort(wanted, kind="stable")
    # With i·gap taken off, "apart by a gap" becomes "not descending": pool adjacent violators.
    pools: list[tuple[float, int]] = []
    for i, place in enumerate(order):
        mean, count = wanted[place] - i * gap, 1
        while pools and pools[-1][0] > mean:
            last, many = pools.pop()
            mean, count = (mean * count + last * many) / (count + many), count + many
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    room = max(top - gap * (len(flat) - 1), 0.0)
    heights = [0.0] * len(flat)
    for i, place in enumerate(order):
        heights[place] = min(max(flat[i], 0.0), room) + i * gap
    return heights


def end_labels(
    ax: Axes,
    ends: Mapping[str, tuple[float, float]],
    style: Mapping[str, tuple[str, Any]],
    size: float = 10,
) -> None:
    """Writes each name of `ends` (name → last point of its line) at the right of `ax`.

    A thin line leads from the point to a key in the `style` (colour, dash) of the name, and then
    the name, which is dark since not every colour is legible as text. A point that is not finite
    gets no name. Call it once all lines of all panels that share an axis are drawn: it fixes the
    limits of `ax`.
    """
    ends = {name: end for name, end in ends.items() if math.isfinite(end[1])}
    if not ends:
        return
    ax.set_xlim(ax.get_xlim())
    ax.set_ylim(ax.get_ylim())
    to_axes = ax.transData + ax.transAxes.inverted()
    points = ax.get_window_extent().height * 72 / ax.figure.dpi
    places = [to_axes.transform(end) for end in ends.values()]
    heights = spread([y * points for _, y in places], 1.3 * size, points)
    outside: dict[str, Any] = {
        "transform": ax.transAxes,
        "clip_on": False,
        "scalex": False,
        "scaley": False,
    }
    for name, (x, y), height in zip(ends, places, heights, strict=True):
        level = height / points
        color, dash = style[name]
        # A line that stops early is carried on in dots, so as not to look like data.
        early = x < 0.9
        lead = [(x, y), (1.0 if early else x, y), (1.02, level)]
        ax.plot(*zip(*lead, strict=True), color=color, lw=0.9, ls=":" if early else "-", **outside)
        ax.plot([1.02, 1.06], [level, level], color=color, lw=1.8, ls=dash, **outside)
        ax.text(
            1.068, level, shorten(name), transform=ax.transAxes, fontsize=size, va="center_baseline"
        )
