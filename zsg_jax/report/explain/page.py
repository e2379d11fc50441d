"""Writes one self-contained page that shows what an order does with its training rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.embedded import EmbeddedPair
from zsg_jax.report.drawing import Captioned
from zsg_jax.report.explain import tables
from zsg_jax.report.explain.figures import mix_figure, similarity_figure, turns_figure
from zsg_jax.report.explain.maps import map_figure, served_figure
from zsg_jax.report.explain.measures import measure
from zsg_jax.report.page import render
from zsg_jax.report.svg import embedded
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import write_bytes
from zsg_jax.runtime.processes import once
from zsg_jax.similarity.search.options import Search

NEAREST = 3  # training rows listed for a test row


def explain(
    path: Path,
    arrangement: Arrangement,
    pair: EmbeddedPair,
    *,
    leakage: Mapping[str, Any] | None,
    facts: Mapping[str, str],
    title: str,
    leaks_left_out: bool = False,
    search: Search = Search(),
) -> Path:
    """Writes the page at `path`: figures, tables and texts in one file that asks for nothing else.

    All cosines are exact, over all rows of the order; the map alone draws some of them, and says
    how many.

    Args:
        path: the file; its folder is made if absent. Appears whole or not at all.
        arrangement: of n ≥ 1 of the N training examples of `pair`.
        pair: training examples, which stay on disk but for some hundred that are read, and T ≥ 1
            test examples, whose embeddings are held in memory.
        leakage: what `leakage.Leakage.summary` gives; None: it was not looked for.
        facts: label → text, shown in this order.
        title: of the page.
        leaks_left_out: whether the order could not choose the training examples that leak.
        search: devices, block size and progress.

    Returns:
        `path`.

    Raises:
        UserError: an empty order or test set, an order of other examples, a NaN or an infinity.
    """
    order, turn = arrangement.order, arrangement.turn
    check(len(order) > 0, "explain: the arrangement is empty, so there is no order to show")
    check(len(pair.test) > 0, "explain: the test set is empty, so nothing can be compared with it")
    check(
        order.max() < len(pair.train),
        f"explain: the arrangement names row {order.max()}, but there are {len(pair.train)} "
        "training rows; give the embeddings that it was made from",
    )
    found = measure(order, pair.train_embeddings, pair.test_embeddings, NEAREST, search=search)
    task, test_task = pair.train.task_index[order], pair.test.task_index
    served = test_task[found.nearest]
    drawn = {
        "similarity": similarity_figure(found, turn),
        "turns": turns_figure(turn),
        "mix": mix_figure(task, pair.train.tasks),
        "served": served_figure(served, pair.test.tasks, test_task),
        "map": map_figure(order, turn, pair.train_embeddings, pair.test_embeddings),
    }
    page = render(
        "explain.html",
        title=title,
        contents=_contents(drawn),
        lead=tables.lead(arrangement, pair, found),
        facts=facts,
        leaks=None if leakage is None else tables.leaks(leakage),
        leaks_left_out=leaks_left_out,
        stretches=tables.stretches(found, turn),
        figures={name: embedded(name, one) for name, one in drawn.items() if one is not None},
        train_tasks=tables.train_tasks(task, pair.train.tasks, found.best),
        test_tasks=tables.test_tasks(test_task, pair.test.tasks, served, found),
        test_rows=tables.test_rows(arrangement, pair, found),
        unlike=tables.unlike(arrangement, pair, found),
        alike=tables.alike(arrangement, pair, found),
        rows=len(order),
        tests=len(pair.test),
    )
    once(f"page of {path.parent.name}", lambda: write_bytes(path, page))
    return path


def _contents(drawn: Mapping[str, Captioned | None]) -> dict[str, str]:
    """The headings of the page, by their ids, in their order."""
    figure = {name: one.heading for name, one in drawn.items() if one is not None}
    return {
        "stretches": "Cosine with the test rows",
        "leakage": "Test rows in the training data",
        **{name: figure[name] for name in ("similarity", "turns", "mix") if name in figure},
        "train-tasks": "Training tasks",
        "served": figure["served"],
        "test-tasks": "Test tasks",
        "test-rows": "Test rows and their nearest training rows",
        "map": figure["map"],
        "unlike": "Least resembled test rows",
        "alike": "Pairs to read",
        "words": "Words",
        "facts": "How it was made",
    }
