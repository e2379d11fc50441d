"""Draws the heat map of test tasks and the map of embeddings, as rasters inside an SVG."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zsg_jax.report.drawing import ROUND_STEPS, STYLE, WIDTH
from zsg_jax.report.explain.figures import position_axis, thousands

DOTS = 150  # of the rasters, an inch
# Thousands of shapes would weigh megabytes.
RASTER: dict[str, Any] = {"rasterized": True}


@rc_context(STYLE)
def served_figure(shares: np.ndarray, names: Sequence[str], edges: np.ndarray) -> Figure:
    """Heat map of test tasks by position: share of a stretch's rows nearest to that task's rows.

    Args:
        shares: (len(names), B).
        names: what to write at each line, first on top.
        edges: (B + 1,) positions.
    """
    height = 0.235 * len(names) + 1.25
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS)
    ax = figure.subplots()
    letters = max(len(name) for name in names)
    figure.subplots_adjust(
        left=(0.25 + 0.077 * letters) / WIDTH,
        right=1 - 0.85 / WIDTH,
        bottom=0.6 / height,
        top=1 - 0.12 / height,
    )
    lines = np.arange(len(names) + 1) - 0.5
    mesh = ax.pcolormesh(edges, lines, 100 * shares, cmap="Blues", vmin=0, **RASTER)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), names, fontsize=8.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    position_axis(ax, int(edges[-1]), 6)
    bar = ax.inset_axes((1.02, 0.0, 0.02, 1.0))
    figure.colorbar(mesh, cax=bar, label="share of the rows, %", ticks=MaxNLocator(4))
    bar.tick_params(labelsize=8.5, length=2)
    return figure


@rc_context(STYLE)
def map_figure(
    train: np.ndarray, shade: np.ndarray, label: str, test: np.ndarray, explained: np.ndarray
) -> Figure:
    """Training rows on a plane, coloured, and test rows as crosses on top.

    Args:
        train: (s, 2) points.
        shade: (s,) number that gives each its colour; alike for all, it needs no scale.
        label: what that number is.
        test: (u, 2) points.
        explained: (2,) share of variance along each axis.
    """
    height = 5.6
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS)
    ax = figure.subplots()
    figure.subplots_adjust(
        left=0.72 / WIDTH, right=1 - 0.95 / WIDTH, bottom=0.53 / height, top=1 - 0.42 / height
    )
    # In no order that has to do with the colour, so that none lies on top of the others.
    drawn = np.random.default_rng(0).permutation(len(train))
    size = 9 if len(train) > 500 else 22
    x, y = train[drawn].T
    dots = ax.scatter(x, y, c=shade[drawn], s=size, cmap="viridis", lw=0, alpha=0.85, **RASTER)
    x, y = test.T
    few = len(test) <= 250
    if few:
        ax.scatter(x, y, marker="x", s=26, lw=3.0, color="white", alpha=0.9, **RASTER)
    look: dict[str, Any] = {
        "s": 26 if few else 11,
        "lw": 1.3 if few else 0.8,
        "alpha": 0.9 if few else 0.7,
    }
    ax.scatter(x, y, marker="x", color="#c1121f", label="test row", **look, **RASTER)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.1, handletextpad=0.2)
    ax.set_xlabel(f"first direction ({100 * explained[0]:.1f} % of the variance)")
    ax.set_ylabel(f"second direction ({100 * explained[1]:.1f} %)")
    ax.tick_params(labelsize=8.5)
    if shade.min() < shade.max():
        bar = ax.inset_axes((1.02, 0.0, 0.02, 1.0))
        scale: Any = figure.colorbar(dots, cax=bar, label=label, format=thousands())
        scale.solids.set(alpha=1, rasterized=True)
        scale.locator = MaxNLocator(6, steps=ROUND_STEPS, integer=True)
        bar.tick_params(labelsize=8.5, length=2)
    return figure
