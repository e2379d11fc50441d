"""Rows that stand for a pool, against the greedy choice on the whole matrix of lists."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.arrangement import diverse
from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.diverse import Neighbourhoods, neighbour_lists
from zsg_jax.arrangement.methods import arrange, made_with, needs
from zsg_jax.runtime.errors import UserError


def exact(rows, generator):
    """± ones, 4 long, some rows 0: float32 holds their cosines exactly, and many are equal."""
    return generator.choice([-1.0, 1.0], (rows, 4)) * (generator.random((rows, 1)) < 0.9)


def served(pool, length):
    """(N, N): how near i is to j where i is in j's list, else 0."""
    norms = np.linalg.norm(pool, axis=1, keepdims=True)
    unit = pool / np.where(norms == 0, 1, norms)
    cosines = unit @ unit.T
    out = np.zeros_like(cosines)
    for j, row in enumerate(cosines):
        nearest = sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:length]
        out[j, nearest] = np.maximum(row[nearest], 0)
    return out


def value(table, chosen):
    return table[:, chosen].max(axis=1, initial=0).sum()


def greedy(table, count):
    chosen = []
    for _ in range(count):
        left = [i for i in range(len(table)) if i not in chosen]
        chosen.append(min(left, key=lambda i: (-value(table, [*chosen, i]), i)))
    return chosen


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 30), st.integers(1, 24))
def test_the_greedy_choice_over_lists(seed, rows, length, queries):
    pool = exact(rows, np.random.default_rng(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diverse, "LIST", length)
        patch.setattr(diverse, "QUERIES", queries)
        found = Neighbourhoods(neighbour_lists(pool))
    table = served(pool, length)
    expected = greedy(table, rows)
    some = rows // 2
    assert found.first(some).tolist() == expected[:some]
    assert found.first(rows).tolist() == expected
    for count in (some, rows):
        told = found.facts(count)
        assert told["neighbours"] == min(length, rows)
        assert told["facility_location"] == pytest.approx(value(table, expected[:count]))
    all_of_it = value(table, list(range(rows)))
    assert told["covered"] == 1
    if all_of_it:
        part = found.facts(some)["covered"]
        assert part == pytest.approx(value(table, expected[:some]) / all_of_it)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 20))
def test_one_of_each_tight_cluster(seed, clusters, size):
    generator = np.random.default_rng(seed)
    group = generator.permutation(np.repeat(np.arange(clusters), size))
    pool = np.eye(8)[group] + 0.01 * generator.normal(size=(len(group), 8))
    inputs = Comparison(pool, pool[:1], group, budget=None)
    made = arrange(f"diverse-{clusters}", inputs, 0)
    assert sorted(group[made.order]) == list(range(clusters))
    assert made_with(f"diverse-{clusters}", inputs)["covered"] > 0.99


def test_copies_come_last_by_index():
    pool = np.eye(4)[[2, 0, 0, 2, 1, 0, 1]]
    inputs = Comparison(pool, pool, range(7), budget=None)
    assert arrange("diverse-7", inputs, 0).order.tolist() == [1, 0, 4, 2, 3, 5, 6]


def test_a_budget_keeps_the_first_and_is_told():
    pool = np.random.default_rng(0).normal(size=(30, 6))
    whole, part = (Comparison(pool, pool[:2], range(30), budget=b) for b in (None, 4))
    first = arrange("diverse-9", whole, 0).order[:4].tolist()
    assert arrange("diverse-9", part, 0).order.tolist() == first
    assert made_with("diverse-9", part) == made_with("diverse-4", whole)
    assert not needs(["diverse-9"])
    with pytest.raises(UserError, match="'diverse-31' asks for 31 rows of 30"):
        arrange("diverse-31", whole, 0)
    with pytest.raises(UserError, match="diverse-1000"):
        needs(["diverse-0"])
