"""Test rows covered one by one, against the greedy choice that computes F anew each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.arrangement import coverage
from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import arrange, made_with, needs
from zsg_jax.report.words import plain_name
from zsg_jax.runtime.errors import UserError


def exact(rows, generator):
    """± ones, 4 long, some rows 0: float32 holds their cosines exactly, and many are equal."""
    return generator.choice([-1.0, 1.0], (rows, 4)) * (generator.random((rows, 1)) < 0.9)


def unit(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


def value(table, chosen, ranks):
    """F of some columns of a (T, N) table of what each row counts."""
    served = -np.sort(-table[:, chosen], axis=1)[:, :ranks]
    return float((served * 0.5 ** np.arange(served.shape[1])).sum())


def naive(cosines, length, ranks):
    """The greedy order over lists, the rest nearest first, and how many add to F."""
    table = np.zeros_like(cosines)
    for t, row in enumerate(cosines):
        nearest = sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:length]
        table[t, nearest] = np.maximum(row[nearest], 0)
    chosen = []
    while len(chosen) < cosines.shape[1]:
        left = [i for i in range(cosines.shape[1]) if i not in chosen]
        best = min(left, key=lambda i: (-value(table, [*chosen, i], ranks), i))
        if value(table, [*chosen, best], ranks) <= value(table, chosen, ranks):
            break
        chosen.append(best)
    left = [i for i in range(cosines.shape[1]) if i not in chosen]
    rest = sorted(left, key=lambda i: (-cosines[:, i].max(), i))
    return chosen + rest, len(chosen), table


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 24),
    st.integers(1, 6),
    st.integers(1, 30),
    st.integers(1, 5),
    st.one_of(st.none(), st.integers(0, 30)),
    st.booleans(),
)
def test_the_greedy_choice_over_lists(seed, rows, tests, length, ranks, budget, announced):
    rng = np.random.default_rng(seed)
    pool, targets = exact(rows, rng), exact(tests, rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage, "LIST", length)
        patch.setattr(coverage, "RANKS", ranks)
        options = {"needs": needs(["coverage"])} if announced else {}
        given = Comparison(pool, targets, range(rows), budget=budget, **options)
        made, told = arrange("coverage", given, 0), made_with("coverage", given)
    order, adding, table = naive(unit(targets) @ unit(pool).T, length, ranks)
    wanted = rows if budget is None else min(budget, rows)
    assert made.order.tolist() == order[:wanted]
    assert made.turn.tolist() == [1 if i < adding else 2 for i in range(wanted)]
    first = order[: min(adding, wanted)]
    assert told["rows_that_cover"] == len(first)
    assert told["coverage"] == value(table, first, ranks)
    most = value(table, list(range(rows)), ranks)
    assert told["covered"] == pytest.approx(value(table, first, ranks) / most if most else 1)


def test_each_test_row_is_served_before_one_is_served_twice():
    targets = np.eye(8)[:4]
    rng = np.random.default_rng(0)
    # Twenty rows near the first test row, two near each other one.
    near = np.concatenate([targets[[0] * 20], targets[[1, 1, 2, 2, 3, 3]]])
    pool = near + 0.05 * rng.normal(size=near.shape)
    given = Comparison(pool, targets, range(26), budget=8)
    nearest = np.argmax(pool[arrange("coverage", given, 0).order] @ targets.T, axis=1)
    assert sorted(nearest[:4]) == [0, 1, 2, 3]
    assert sorted(nearest) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert plain_name("coverage") != ""


def test_nothing_to_cover():
    given = Comparison(np.ones((3, 2)), np.empty((0, 2)), range(3), budget=None)
    with pytest.raises(UserError, match="test set is empty"):
        arrange("coverage", given, 0)
