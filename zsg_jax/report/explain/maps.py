"""Draws the heat map of test tasks and the map of embeddings, as rasters inside an SVG."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA

from zsg_jax.report.curves import even_places
from zsg_jax.report.drawing import ROUND_STEPS, STYLE, Captioned, shorten
from zsg_jax.report.explain.figures import (
    position_axis,
    share_edges,
    shares_of,
    subplots,
    tell_shares,
    thousands,
)
from zsg_jax.similarity.embeddings import Embeddings, SelectedEmbeddings, unit_embeddings

DOTS = 150  # of the rasters, an inch
# Thousands of shapes would weigh megabytes.
RASTER: dict[str, Any] = {"rasterized": True}
NAMED_TEST_TASKS = 24
TRAIN_POINTS = 4000
TEST_POINTS = 1000


@rc_context(STYLE)
def served_figure(nearest: np.ndarray, names: Sequence[str], test_task: np.ndarray) -> Captioned:
    """Heat map by position: the share of a stretch's rows that are nearest to each test task.

    Args:
        nearest: (n,) ints, by position: the task of the nearest test row.
        names: of test tasks.
        test_task: (T,) ints, the task of each test row.
    """
    near = np.bincount(nearest, minlength=len(names))
    counts = np.bincount(test_task, minlength=len(names))
    present = np.flatnonzero(counts)
    ranked = present[np.lexsort((present, -near[present]))]
    named, others = ranked[:NAMED_TEST_TASKS], ranked[NAMED_TEST_TASKS:]
    edges = share_edges(len(nearest))
    shares = shares_of(nearest, named, len(names), edges)[:-1]

    figure, ax = subplots(0.235 * len(named) + 1.25, dpi=DOTS)
    lines = np.arange(len(named) + 1) - 0.5
    mesh = ax.pcolormesh(edges, lines, 100 * shares, cmap="Blues", vmin=0, **RASTER)
    for line, share in enumerate(shares):
        up = np.tile([line - 0.5, line + 0.5], (len(share), 1))
        tell_shares(ax, edges, up, share, names[named[line]])
    ax.set_ylim(len(named) - 0.5, -0.5)
    labels = [f"{shorten(names[i], 34)} ({counts[i]:,})" for i in named]
    ax.set_yticks(range(len(named)), labels, fontsize=8.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False)
    position_axis(ax, len(nearest), 6)
    figure.colorbar(mesh, label="share of the rows, %", ticks=MaxNLocator(4), pad=0.02, aspect=30)

    share = 100 * near[others].sum() / len(nearest)
    rest = ", and a column sums to 100 %."
    if len(others):
        rest = (
            f"; {len(others):,} more, to which {share:.1f} % of the rows are nearest, are left out "
            "here."
        )
    return Captioned(
        figure,
        "Which test tasks are served, and when",
        "For every stretch of the order, the share of its rows whose nearest test row is of that "
        "task. In brackets: test rows of the task. Tasks with the most rows near them come first"
        f"{rest} All rows are counted.",
        f"Heat map of {len(ranked):,} test tasks by position; the table of test tasks gives "
        "numbers.",
    )


@rc_context(STYLE)
def map_figure(
    order: np.ndarray, turn: np.ndarray, train: Embeddings, test: Embeddings
) -> Captioned:
    """Rows and test rows on a plane, coloured by turn or, in a single turn, by position."""
    points = project(order, train, test)
    turns = len(np.unique(turn)) > 1
    shade = turn[points.positions] if turns else points.positions + 1
    figure, ax = subplots(5.6, dpi=DOTS)
    # In no order that has to do with the colour, so that none lies on top of the others.
    drawn = np.random.default_rng(0).permutation(len(points.train))
    size = 9 if len(drawn) > 500 else 22
    x, y = points.train[drawn].T
    dots = ax.scatter(x, y, c=shade[drawn], s=size, cmap="viridis", lw=0, alpha=0.85, **RASTER)
    few = len(points.test) <= 250
    if few:
        ax.scatter(*points.test.T, marker="x", s=26, lw=3.0, color="white", alpha=0.9, **RASTER)
    look = {"s": 26, "lw": 1.3, "alpha": 0.9} if few else {"s": 11, "lw": 0.8, "alpha": 0.7}
    ax.scatter(*points.test.T, marker="x", color="#c1121f", label="test row", **look, **RASTER)
    ax.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.1, handletextpad=0.2)
    first, second = 100 * points.explained
    ax.set_xlabel(f"first direction ({first:.1f} % of the variance)")
    ax.set_ylabel(f"second direction ({second:.1f} %)")
    # Of what is told as all of it there is no rest.
    rest = ", so points that lie together here may be far apart in the rest"
    rest = "" if f"{first + second:.1f}" == "100.0" else rest
    by = "turn" if turns else "position in the order"
    if shade.min() < shade.max():
        scale: Any = figure.colorbar(dots, label=by, format=thousands(), pad=0.02, aspect=35)
        scale.solids.set(alpha=1, rasterized=True)
        scale.locator = MaxNLocator(6, steps=ROUND_STEPS, integer=True)
    return Captioned(
        figure,
        "Map of the embeddings",
        f"{len(points.train):,} of {len(order):,} rows, evenly spaced in the order, and "
        f"{len(points.test):,} of {len(test):,} test rows (crosses), on the two directions in "
        "which these points vary most (principal components of the unit rows). Together they "
        f"explain {first + second:.1f} % of the variance{rest}. "
        f"Colour: {by}{'' if turns else ', as there is one turn'}.",
        f"Scatter chart of {len(points.train):,} training rows and {len(points.test):,} test rows.",
    )


class Projection(NamedTuple):
    """Points on a plane.

    Attributes:
        train: (s, 2) float64.
        positions: (s,) int64, ascending: where those rows stand in the order.
        test: (u, 2) float64.
        explained: (2,) float64, share of the sample's variance along each axis.
    """

    train: np.ndarray
    positions: np.ndarray
    test: np.ndarray
    explained: np.ndarray


def project(order: np.ndarray, train: Embeddings, test: Embeddings) -> Projection:
    """PCA of unit rows, fitted on the points drawn: rows evenly spaced in the order, and test rows.

    An axis along which nothing varies has coordinates 0 and explains 0.
    """
    positions = even_places(len(order), TRAIN_POINTS)
    rows = order[positions]
    ascending = np.argsort(rows)
    sample = np.empty((len(rows), train.shape[1]), np.float32)
    sample[ascending] = unit_embeddings(SelectedEmbeddings(train, rows[ascending]), "train")
    tests = unit_embeddings(test[even_places(len(test), TEST_POINTS)], "test")
    points = np.concatenate([sample, tests])
    plane, explained = np.zeros((len(points), 2)), np.zeros(2)
    axes = min(2, *points.shape)
    if (points != points[0]).any():
        # The randomized solver costs little at any width; its seed makes it repeat itself.
        pca = PCA(axes, svd_solver="randomized", random_state=0)
        plane[:, :axes] = pca.fit_transform(points)
        explained[:axes] = pca.explained_variance_ratio_
    return Projection(plane[: len(rows)], positions, plane[len(rows) :], explained)
