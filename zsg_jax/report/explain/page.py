"""Writes one self-contained page that shows what an order does with its training rows."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.arrangement import Arrangement
from zsg_jax.data.instance import Instance
from zsg_jax.report.drawing import Captioned, to_svg
from zsg_jax.report.explain import tables
from zsg_jax.report.explain.bins import even_places
from zsg_jax.report.explain.figures import mix_figure, similarity_figure, turns_figure
from zsg_jax.report.explain.maps import map_figure, served_figure
from zsg_jax.report.explain.measures import fetch, measure, nearest_test_rows
from zsg_jax.report.page import render
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import write_bytes
from zsg_jax.similarity.search.options import Search

NEAREST = 3  # training rows listed for a test row
SERVED_ENTRIES = 1 << 26  # cosines that finding nearest test rows may take; sampled past that


def explain(
    path: Path,
    *,
    arrangement: Arrangement,
    train_rows: Any,
    test_rows: Any,
    tasks: Sequence[str],
    task: np.ndarray,
    test_tasks: Sequence[str],
    test_task: np.ndarray,
    read_train: Callable[[int], Instance],
    read_test: Callable[[int], Instance],
    leakage: Mapping[str, Any] | None,
    facts: Mapping[str, str],
    title: str,
    search: Search = Search(),
) -> Path:
    """Writes the page at `path`: figures, tables and texts in one file that asks for nothing else.

    Cosines by position and the nearest rows of every test row are exact, over all rows of the
    order. Which test row a training row is nearest to is found for evenly spaced positions where
    the order is long, and so is the map; the page says how many.

    Args:
        path: the file; its folder is made if absent. Appears whole or not at all.
        arrangement: of n ≥ 1 rows, numbers below N.
        train_rows: (N, D) floats, an array or something on disk with shape, dtype and len that
            slices and ascending int64 arrays take rows from.
        test_rows: (T, D) floats, likewise, T ≥ 1; held in memory.
        tasks, test_tasks: names.
        task, test_task: (N,) and (T,) ints, each row's place in those.
        read_train, read_test: the instance of a row; asked for some hundred rows at most.
        leakage: what `leakage.Leakage.summary` gives; None: it was not looked for.
        facts: label → text, shown in this order.
        title: of the page.
        search: devices, block size and progress.

    Returns:
        `path`.

    Raises:
        UserError: an empty order or test set, sizes that do not agree, a NaN or an infinity.
    """
    order, turn = arrangement.order, arrangement.turn
    _check(order, train_rows, test_rows, tasks, task, test_tasks, test_task)
    test = fetch(test_rows, np.arange(len(test_rows)), "test")
    task, test_task = (np.asarray(a).astype(np.int64) for a in (task, test_task))
    found = measure(order, train_rows, test, NEAREST, search=search)
    sampled = even_places(len(order), max(2000, SERVED_ENTRIES // len(test)))
    nearest, _ = nearest_test_rows(order[sampled], train_rows, test, search=search)
    served = test_task[nearest]
    read = tables.Reader(arrangement, tasks, task, test_tasks, test_task, read_train, read_test)
    drawn = {
        "similarity": similarity_figure(found, turn),
        "turns": turns_figure(turn),
        "mix": mix_figure(task[order], tasks),
        "served": served_figure(served, sampled, test_tasks, test_task, len(order)),
        "map": map_figure(order, turn, train_rows, test),
    }
    page = render(
        "explain.html",
        title=title,
        lead=tables.lead(arrangement, len(task), test_task, found),
        facts=facts,
        leaks=None if leakage is None else tables.leaks(leakage),
        stretches=tables.stretches(found, turn),
        figures={name: _embedded(one) for name, one in drawn.items() if one is not None},
        train_tasks=tables.train_tasks(task[order], tasks, found.best),
        test_tasks=tables.test_tasks(test_task, test_tasks, served, found),
        test_rows=tables.test_rows(read, found),
        unlike=tables.unlike(read, found),
        alike=tables.alike(read, found, order, train_rows, test, search),
        rows=len(order),
        tests=len(test),
    )
    write_bytes(path, page)
    return path


def _embedded(drawn: Captioned) -> dict[str, str]:
    """A figure as the template takes it, with all its bytes."""
    source = "data:image/svg+xml;base64," + base64.b64encode(to_svg(drawn.figure)).decode()
    return {
        "source": source,
        "heading": drawn.heading,
        "caption": drawn.caption,
        "alt": drawn.alt,
    }


def _check(
    order: np.ndarray,
    train_rows: Any,
    test_rows: Any,
    tasks: Sequence[str],
    task: np.ndarray,
    test_tasks: Sequence[str],
    test_task: np.ndarray,
) -> None:
    check(len(order) > 0, "explain: the arrangement is empty, so there is no order to show")
    check(len(test_rows) > 0, "explain: the test set is empty, so nothing can be compared with it")
    last = int(order.max())
    check(
        last < len(train_rows),
        f"explain: the arrangement names row {last}, but there are {len(train_rows)} training "
        "rows; give the embeddings that it was made from",
    )
    for side, rows, of, names in (
        ("training", train_rows, task, tasks),
        ("test", test_rows, test_task, test_tasks),
    ):
        of = np.asarray(of)
        check(
            of.shape == (len(rows),) and np.issubdtype(of.dtype, np.integer),
            f"explain: tasks of {side} rows are {of.shape} {of.dtype}; they must be "
            f"({len(rows)},) of integers",
        )
        check(
            0 <= of.min() and of.max() < len(names),
            f"explain: {side} rows have tasks {of.min()} to {of.max()}, but {len(names)} are named",
        )
