"""Test examples to read where nothing was generated: those whose loss differs most."""

import numpy as np
import pytest

from zsg_jax.report.page import write_report
from zsg_jax.report.reading import EXAMPLES, by_loss

COUNT, SEEDS = 20, (0, 1)
ROWS = [
    {"id": f"row {i}", "task": f"t{i % 3}", "prompt": f"asks <{i}>", "references": [f"says {i}"]}
    for i in range(COUNT)
]


def records(values):
    """Of one run: losses (S, N) at steps 0, 10, …"""
    return [
        {"step": 10 * at, "kind": "test", "loss": float(np.mean(one)), "losses": one.tolist()}
        for at, one in enumerate(values)
    ]


@pytest.fixture
def values():
    rng = np.random.default_rng(3)
    return {name: {seed: rng.normal(2, 1, (3, COUNT)) for seed in SEEDS} for name in "abc"}


def test_the_largest_differences_of_means_over_seeds_come_first(values):
    runs = {n: {seed: records(v) for seed, v in by.items()} for n, by in values.items()}
    found = by_loss(runs, ROWS)
    assert list(found.pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (a, b), examples in found.pairs.items():
        means = {
            n: [sum(values[n][s][-1][i] for s in SEEDS) / 2 for i in range(COUNT)] for n in (a, b)
        }
        order = sorted(range(COUNT), key=lambda i: -abs(means[a][i] - means[b][i]))
        assert [one.id for one in examples] == [f"row {i}" for i in order[:EXAMPLES]]
        for i, one in zip(order, examples, strict=False):
            assert (one.task, one.prompt) == (f"t{i % 3}", f"asks <{i}>")
            assert [(s.name, s.step, s.score) for s in one.said] == [
                (n, 20, f"{means[n][i]:.4f}") for n in (a, b)
            ]


def test_there_are_none_where_nothing_differs_or_nothing_is_known(values):
    runs = {n: {seed: records(v) for seed, v in by.items()} for n, by in values.items()}
    assert by_loss({"a": runs["a"]}, ROWS) is None
    assert by_loss({"a": runs["a"], "z": runs["a"]}, ROWS) is None
    assert by_loss(runs, ROWS[:-1]) is None
    assert by_loss(runs, []) is None
    # Of an earlier step, where the last ones share none.
    runs["b"] = {seed: one[:2] for seed, one in runs["b"].items()}
    [first, *_] = by_loss(runs, ROWS).pairs["a", "b"]
    assert {one.step for one in first.said} == {10}


@pytest.mark.usefixtures("undrawn")
def test_the_page_shows_their_texts(values, read_page, tmp_path):
    runs = {n: {seed: records(v) for seed, v in by.items()} for n, by in values.items()}
    page = read_page(write_report(tmp_path, runs, {}, {}, test_rows=ROWS))
    page.check()
    said = page.said()
    assert "At step 20, means over 2 seeds: the test instances whose test loss differs most" in said
    assert "asks <" in said
    assert "Examples to read" not in read_page(write_report(tmp_path, runs, {}, {})).said()
