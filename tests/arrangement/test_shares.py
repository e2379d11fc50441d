"""Sets of test rows that share what is chosen, against the rules in plain Python."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import arrange, needs
from zsg_jax.arrangement.shares import Shares
from zsg_jax.arrangement.target_sets import of_sets
from zsg_jax.data.mixture import TargetSet


def exact(rows, generator):
    """± ones, 4 long, some rows 0: float32 holds their cosines exactly, and many are equal."""
    return generator.choice([-1.0, 1.0], (rows, 4)) * (generator.random((rows, 1)) < 0.9)


def unit(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


def naive(kind, cosines, sets, index, wanted):
    """Rows of an (N, T) table, each with its set, as the rules say it."""
    pool, chosen, order = list(range(len(cosines))), [[] for _ in sets], []
    while pool and len(order) < wanted:
        may = [
            k
            for k, one in enumerate(sets)
            if (index == k).any() and (one.budget is None or len(chosen[k]) < one.budget)
        ]
        if not may:
            break
        k = min(may, key=lambda k: (Fraction(len(chosen[k])) / sets[k].share, k))
        own = np.flatnonzero(index == k)
        if kind == "targets":
            own = own[[len(chosen[k]) % len(own)]]
        sign = -1 if kind == "tmta-max" else 1
        named = sorted({min(pool, key=lambda i, j=j: (-sign * cosines[i, j], i)) for j in own})
        chosen[k] += named
        order += [(row, k) for row in named]
        pool = [row for row in pool if row not in named]
    return order


SETS = st.lists(
    st.tuples(st.fractions(Fraction(1, 9), 9, max_denominator=9), st.none() | st.integers(1, 12)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["targets", "tmta-min", "tmta-max"]),
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 30),
    told=SETS,
    tests=st.integers(1, 8),
    budget=st.one_of(st.none(), st.integers(1, 30)),
    announced=st.booleans(),
)
def test_the_set_that_has_least_of_its_share_is_next(
    kind, seed, rows, told, tests, budget, announced
):
    rng = np.random.default_rng(seed)
    pool, targets = exact(rows, rng), exact(tests, rng)
    sets = [TargetSet(f"s{k}", share, most) for k, (share, most) in enumerate(told)]
    index = rng.integers(0, len(sets), tests).astype(np.int32)
    given = Comparison(
        pool,
        targets,
        range(rows),
        budget=budget,
        sets=sets,
        set_index=index,
        needs=needs([kind] if announced else []),
    )
    made = arrange(kind, given, 0)
    cosines = unit(pool) @ unit(targets).T
    expected = naive(kind, cosines, sets, index, rows if budget is None else min(budget, rows))
    assert made.order.tolist() == [row for row, _ in expected]
    told = of_sets(kind, given, made.order)["target_sets"]
    for k, one in enumerate(sets):
        own = [row for row, by in expected if by == k]
        facts = told[one.name]
        assert facts["share"] == str(one.share)
        assert (facts["budget"], facts["rows"]) == (one.budget, len(own))
        assert facts["test_rows"] == (index == k).sum()
        if own:
            best = cosines[own][:, index == k].max(axis=1).mean()
            assert facts["similarity"] == pytest.approx(best, abs=1e-6)
        else:
            assert facts["similarity"] is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 60))
def test_no_set_has_more_than_its_part_and_one(shares, picks):
    sets = [TargetSet(str(k), Fraction(share), None) for k, share in enumerate(shares)]
    state = Shares(sets, np.arange(len(sets)))
    for number in range(picks):
        state.chosen[state.next()].append(number)
    for share, chosen in zip(shares, state.chosen, strict=True):
        assert len(chosen) < picks * Fraction(share, sum(shares)) + 1


def test_one_set_is_as_none():
    rng = np.random.default_rng(0)
    pool, targets = rng.normal(size=(50, 6)), rng.normal(size=(4, 6))
    one = [TargetSet("all", Fraction(3), None)]
    plain = Comparison(pool, targets, range(50), budget=None)
    shared = Comparison(
        pool, targets, range(50), budget=None, sets=one, set_index=np.zeros(4, np.int32)
    )
    for name in ("targets", "tmta-min", "tmta-max", "tmta-min-max"):
        first, second = (arrange(name, inputs, 0) for inputs in (plain, shared))
        assert first.order.tolist() == second.order.tolist()
        assert first.turn.tolist() == second.turn.tolist()


def test_halves_of_both_tell_what_each_set_chose():
    rng = np.random.default_rng(1)
    pool, targets = rng.normal(size=(50, 6)), rng.normal(size=(4, 6))
    sets = [TargetSet("a", Fraction(2), None), TargetSet("b", Fraction(1), 7)]
    index = np.array([0, 1, 1, 0], np.int32)
    given = Comparison(pool, targets, range(50), budget=20, sets=sets, set_index=index)
    made = arrange("tmta-min-max", given, 0)
    told = of_sets("tmta-min-max", given, made.order)["target_sets"]
    assert sum(one["rows"] for one in told.values()) == len(made.order)
    assert "rows" not in of_sets("min-nft", given, made.order)["target_sets"]["a"]
