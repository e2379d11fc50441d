"""Makes the tables and the texts of the page that shows an order: what a template only lays out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.embedded import EmbeddedPair
from zsg_jax.report.curves import even_places
from zsg_jax.report.drawing import shorten
from zsg_jax.report.explain.bins import tally
from zsg_jax.report.explain.measures import PAIRS, Measured, resembling
from zsg_jax.report.explain.pairs import Pair, passages, pick
from zsg_jax.report.tables import Row, Table

MAX_NAME = 80  # letters of a name or id
MAX_TASKS = 400  # lines of a table of tasks
MAX_TEST_ROWS = 40
UNLIKE = 8
ALIKE = 4  # pairs of a group
WINDOW = 500  # rows looked through at the start, in the middle and at the end, at most


def lead(arrangement: Arrangement, pair: EmbeddedPair, found: Measured) -> dict[str, Any]:
    """The numbers of the first paragraph."""
    first = np.sort(found.positions[:, 0]) + 1
    resembles = resembling(pair.train_embeddings, pair.test_embeddings)
    return {
        "rows": len(arrangement),
        "of": len(pair.train),
        "turns": len(np.unique(arrangement.turn)),
        "tests": len(first),
        "test_tasks": len(np.unique(pair.test.task_index)),
        "half": int(first[(len(first) - 1) // 2]),
        "all": int(first[-1]),
        "serving": len(np.unique(first)),
        "unlike": int((found.cosines[:, 0] < resembles.cosine).sum()),
        "resembles": f"{resembles.cosine:.3f}",
        "share": f"{100 * resembles.below:.3g}",
        "pairs": PAIRS,
    }


def leaks(leakage: Mapping[str, Any]) -> dict[str, Any]:
    """A line for each kind of leak, and how many rows leak in all; of `Leakage.summary`."""
    counts = leakage["counts"]
    sides = ("train_rows", "test_rows", "pairs")
    kinds = [
        {"kind": kind, "rule": rule, "cells": [counts[f"{kind}_{side}"] for side in sides]}
        for kind, rule in leakage["rules"].items()
    ]
    told = {
        "kinds": kinds,
        "leaked": counts["leaking_train_rows"] > 0,
        "crowded": leakage.get("crowded", False),
        "without_ngrams": leakage.get("test_rows_without_ngrams", 0),
    }
    return told | counts


def stretches(found: Measured, turn: np.ndarray) -> Table:
    """Cosines in the first, middle and last tenth of an order, and in all of it."""
    n = len(turn)
    tenth = max(1, n // 10)
    middle = (n - tenth) // 2
    parts = {
        "First tenth": (0, tenth),
        "Middle tenth": (middle, middle + tenth),
        "Last tenth": (n - tenth, n),
        "Whole order": (0, n),
    }
    rows = []
    for name, (start, stop) in parts.items():
        low, high = int(turn[start:stop].min()), int(turn[start:stop].max())
        cells = [
            f"{start + 1:,} – {stop:,}",
            f"{found.mean[start:stop].mean(dtype=np.float64):.4f}",
            f"{found.best[start:stop].mean(dtype=np.float64):.4f}",
            f"{low:,}" if low == high else f"{low:,} – {high:,}",
        ]
        rows.append(Row(name, cells))
    columns = ["Positions", "Mean over the test rows", "With the nearest test row", "Turns"]
    # Below ten rows a tenth is no tenth.
    return Table("Part of the order", columns, rows if n >= 10 else rows[-1:])


def train_tasks(task: np.ndarray, names: Sequence[str], best: np.ndarray) -> dict[str, Any]:
    """The most frequent tasks of an order, by median position: which come early."""
    found = tally(task, len(names), np.arange(len(task)), best)
    ranked = np.lexsort((np.arange(len(names)), -found.rows))
    ranked = ranked[found.rows[ranked] > 0]
    shown = ranked[:MAX_TASKS]
    shown = shown[np.lexsort((shown, found.median[shown]))]
    rows = []
    for i in shown:
        share = f"{100 * found.rows[i] / len(task):.2f}"
        cells = f"{found.rows[i]:,}", share, f"{found.median[i]:,.10g}", f"{found.mean[i]:.4f}"
        rows.append(Row(shorten(names[i], MAX_NAME), cells))
    columns = ["Rows", "Share, %", "Median position", "Cosine with the nearest test row"]
    return {"table": Table("Task", columns, rows), "of": len(ranked)}


def test_tasks(
    test_task: np.ndarray, names: Sequence[str], served: np.ndarray, found: Measured
) -> dict[str, Any]:
    """Test tasks by how near their rows are to the nearest row of the order, the farthest first."""
    first = found.positions[:, 0]
    by_position = np.argsort(first, kind="stable")
    of = tally(
        test_task[by_position], len(names), first[by_position], found.cosines[by_position, 0]
    )
    near = np.bincount(served, minlength=len(names))
    present = np.flatnonzero(of.rows)
    ranked = present[np.lexsort((present, of.mean[present]))]
    rows = []
    for i in ranked[:MAX_TASKS]:
        share = f"{100 * near[i] / len(served):.1f}"
        cells = f"{of.rows[i]:,}", f"{of.mean[i]:.4f}", f"{of.median[i]:,.10g}", share
        rows.append(Row(shorten(names[i], MAX_NAME), cells))
    columns = [
        *("Test rows", "Cosine with the nearest training row", "Median position of that row"),
        "Training rows nearest to the task, %",
    ]
    return {"table": Table("Task", columns, rows), "of": len(ranked)}


def test_rows(arrangement: Arrangement, pair: EmbeddedPair, found: Measured) -> dict[str, Any]:
    """Test rows with their nearest rows, evenly spaced in the ranking by best cosine."""
    ranked = np.argsort(-found.cosines[:, 0], kind="stable")
    lines = []
    for row in ranked[even_places(len(ranked), MAX_TEST_ROWS)]:
        test = pair.test[int(row)]
        near = zip(found.positions[row], found.cosines[row], strict=True)
        lines.append(
            {
                "name": shorten(test.id, MAX_NAME),
                "task": shorten(test.task, MAX_NAME),
                "near": [_near(arrangement, pair, int(at), float(cos)) for at, cos in near],
            }
        )
    return {"lines": lines, "of": len(ranked), "near": found.cosines.shape[1]}


def unlike(arrangement: Arrangement, pair: EmbeddedPair, found: Measured) -> list[dict[str, Any]]:
    """The test rows of the lowest best cosine, each beside its nearest row."""
    best = found.cosines[:, 0]
    ranked = np.argsort(best, kind="stable")[:UNLIKE]
    return [
        _read(arrangement, pair, Pair(int(found.positions[row, 0]), int(row), float(best[row])))
        for row in ranked
    ]


def alike(arrangement: Arrangement, pair: EmbeddedPair, found: Measured) -> list[dict[str, Any]]:
    """Groups of the most similar pairs: of the whole order, its start, its middle, its end."""
    tests, k = found.positions.shape
    everywhere = pick(
        found.positions.ravel(), np.repeat(np.arange(tests), k), found.cosines.ravel(), ALIKE
    )
    groups = [("In the whole order", "", everywhere)]
    n = len(arrangement)
    size = min(WINDOW, n // 4)
    starts = {"At the start": 0, "In the middle": (n - size) // 2, "At the end": n - size}
    for heading, start in starts.items() if size else ():
        window = np.arange(start, start + size)
        about = (
            f"Most similar among the rows at positions {start + 1:,} – {start + size:,}, whose "
            f"cosine with their nearest test row is {np.median(found.best[window]):.3f} in the "
            "median."
        )
        pairs = pick(window, found.nearest[window], found.best[window], ALIKE)
        groups.append((heading, about, pairs))
    return [
        {
            "heading": heading,
            "about": about,
            "pairs": [_read(arrangement, pair, one) for one in pairs],
        }
        for heading, about, pairs in groups
    ]


def _near(
    arrangement: Arrangement, pair: EmbeddedPair, position: int, cosine: float
) -> dict[str, str]:
    task = pair.train.task_index[arrangement.order[position]]
    return {
        "cosine": f"{cosine:.3f}",
        "position": f"{position + 1:,}",
        "turn": f"{arrangement.turn[position]:,}",
        "task": shorten(pair.train.tasks[task], MAX_NAME),
        "id": shorten(pair.train[int(arrangement.order[position])].id, MAX_NAME),
    }


def _read(arrangement: Arrangement, pair: EmbeddedPair, found: Pair) -> dict[str, Any]:
    train, test = pair.train[int(arrangement.order[found.position])], pair.test[found.test_row]
    return {
        **_near(arrangement, pair, found.position, found.cosine),
        "train": passages(train),
        "test_id": shorten(test.id, MAX_NAME),
        "test_task": shorten(test.task, MAX_NAME),
        "test": passages(test),
    }
