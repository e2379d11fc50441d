"""Gives each figure of the page that shows an order its heading, caption and description."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from zsg_jax.report.drawing import shorten, to_svg
from zsg_jax.report.explain import figures, maps
from zsg_jax.report.explain.bins import bin_edges, bin_shares, leading_groups
from zsg_jax.report.explain.measures import Measured
from zsg_jax.report.explain.projection import project

CURVE_BINS = 120
SHARE_BINS = 60
SHARE_ROWS = 100  # of a bin, for shares of tasks that are more than chance
NAMED_TASKS = 12
NAMED_TEST_TASKS = 24


def _bins(n: int) -> int:
    return min(SHARE_BINS, max(10, n // SHARE_ROWS))


def _shown(figure: Figure, heading: str, caption: str, alt: str) -> dict[str, str]:
    source = "data:image/svg+xml;base64," + base64.b64encode(to_svg(figure)).decode()
    return {"source": source, "heading": heading, "caption": caption, "alt": alt}


def similarity(found: Measured, turn: np.ndarray) -> dict[str, str]:
    """Cosines by position, and which share of the test rows has met its nearest row."""
    edges = bin_edges(len(turn), CURVE_BINS)
    changes = len(figures.turn_starts(turn)) - 1
    marks = ""
    if 0 < changes <= figures.MAX_LINES:
        marks = " Grey lines: the turn changes."
    elif changes:
        marks = f" The turn changes {changes:,} times, too often for lines."
    if changes and figures.follow_one_another(turn):
        marks += " Numbers along the top: some of the turns, each where it begins."
    return _shown(
        figures.similarity_figure(found.mean, found.best, found.positions[:, 0], turn, edges),
        "Similarity by position",
        f"Top: cosine of the rows with the test rows, in {len(edges) - 1} stretches of about "
        f"{len(turn) / (len(edges) - 1):,.0f} rows: the mean over all test rows, and with the one "
        "test row that is nearest. Line: mean of the stretch; band: from its 10th to its 90th "
        "percentile. Bottom: share of the test rows whose single nearest row of this order has "
        f"come by then.{marks} All rows are counted.",
        "Line charts by position: mean and nearest cosine to the test rows, and the share of test "
        "rows that have met their nearest row. The table above gives numbers.",
    )


def turns(turn: np.ndarray) -> dict[str, str] | None:
    """Sizes of turns and where they stand; None for a single turn."""
    figure = figures.turns_figure(turn)
    if figure is None:
        return None
    numbers, sizes = np.unique(turn, return_counts=True)
    told = f"each of {sizes.min():,} to {sizes.max():,} rows, {np.median(sizes):,g} in the median"
    if sizes.min() == sizes.max():
        told = f"each of {sizes.min():,} row{'s' if sizes.min() > 1 else ''}"
    return _shown(
        figure,
        "Turns",
        f"{len(numbers):,} turns, {told}. Left: how many rows each turn has. Right: which turns "
        "the rows at a position are of; a thin line means that turns follow one another, a wide "
        "band that they are mixed.",
        f"Charts of the number of rows in each of {len(numbers):,} turns and of turn by position.",
    )


def mix(task: np.ndarray, tasks: Sequence[str]) -> dict[str, str]:
    """Tasks by position; `task` (n,) int64 is that of each position, a place in `tasks`."""
    named = leading_groups(task, len(tasks), NAMED_TASKS)
    met = len(np.unique(task))
    group = np.full(len(tasks), len(named))
    group[named] = np.arange(len(named))
    edges = bin_edges(len(task), _bins(len(task)))
    shares = bin_shares(group[task], len(named) + 1, edges)
    rest = met - len(named)
    others = f"{rest:,} other task{'s' if rest > 1 else ''}"
    return _shown(
        figures.mix_figure(shares, [tasks[i] for i in named], others, edges),
        "Mix of tasks by position",
        (
            f"The {len(named)} of {met:,} tasks that make up the largest share of any tenth of the "
            "order, the largest at the bottom; all others are grey. Where the named ones are few, "
            "the axis ends below 100 %."
            if rest
            else f"{'All tasks' if met > 1 else 'The one task'} of the rows."
        )
        + f" Stretches: {len(edges) - 1}; all rows are counted.",
        f"Stacked areas: share of {len(named)} of {met:,} tasks by position.",
    )


def served(
    nearest: np.ndarray, sampled: np.ndarray, names: Sequence[str], test_task: np.ndarray, n: int
) -> dict[str, str]:
    """Test tasks by position.

    Args:
        nearest: (s,) int64, the task of the nearest test row of each row looked at.
        sampled: (s,) int64, ascending: the positions of those rows.
        names: of test tasks.
        test_task: (T,) int64, the task of each test row.
        n: positions of the order.
    """
    rows = np.bincount(nearest, minlength=len(names))
    counts = np.bincount(test_task, minlength=len(names))
    present = np.flatnonzero(counts)
    ranked = present[np.lexsort((present, -rows[present]))]
    named = ranked[:NAMED_TEST_TASKS]
    group = np.full(len(names), len(named))
    group[named] = np.arange(len(named))
    rest = len(ranked) - len(named)
    left = int(rows[ranked[NAMED_TEST_TASKS:]].sum())
    edges = bin_edges(len(nearest), _bins(len(nearest)))
    shares = bin_shares(group[nearest], len(named) + 1, edges)
    labels = [f"{shorten(names[i], 34)} ({counts[i]:,})" for i in named]
    # Bins are of sampled positions; drawn where those stand.
    places = np.append(sampled[edges[:-1]], n)
    counted = (
        "All rows are counted."
        if len(sampled) == n
        else f"Counted on {len(sampled):,} of {n:,} rows, evenly spaced in the order."
    )
    return _shown(
        maps.served_figure(shares[:-1], labels, places),
        "Which test tasks are served, and when",
        "For every stretch of the order, the share of its rows whose nearest test row is of that "
        "task. In brackets: test rows of the task. Tasks with the most rows near them come first"
        + (
            f"; {rest:,} more, to which {100 * left / len(nearest):.1f} % of the rows are nearest, "
            "are left out here. "
            if rest
            else ", and a column sums to 100 %. "
        )
        + counted,
        f"Heat map of {len(ranked):,} test tasks by position; the table of test tasks gives "
        "numbers.",
    )


def plane(order: np.ndarray, turn: np.ndarray, train_rows: Any, test: np.ndarray) -> dict[str, str]:
    """Rows and test rows on a plane, coloured by turn or, in a single turn, by position."""
    points = project(order, train_rows, test)
    turns = len(np.unique(turn)) > 1
    shade = turn[points.positions] if turns else points.positions + 1
    by = "turn" if turns else "position in the order, as there is one turn"
    return _shown(
        maps.map_figure(points.train, shade, by.split(",")[0], points.test, points.explained),
        "Map of the embeddings",
        f"{len(points.train):,} of {len(order):,} rows, evenly spaced in the order, and "
        f"{len(points.test):,} of {len(test):,} test rows (crosses), on the two directions in "
        "which these points vary most (principal components of the unit rows). Together they "
        f"explain {100 * points.explained.sum():.1f} % of the variance, so points that lie "
        f"together here may be far apart in the rest. Colour: {by}.",
        f"Scatter chart of {len(points.train):,} training rows and {len(points.test):,} test rows.",
    )
