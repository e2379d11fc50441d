"""Sets of test rows that share what is chosen, against the rules in plain Python."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import arrange, made_with, needs
from zsg_jax.arrangement.shares import Shares
from zsg_jax.arrangement.target_sets import of_sets
from zsg_jax.data.mixture import TargetSet
from zsg_jax.runtime.errors import UserError


def exact(rows, generator):
    """± ones, 4 long, some rows 0: float32 holds their cosines exactly, and many are equal."""
    return generator.choice([-1.0, 1.0], (rows, 4)) * (generator.random((rows, 1)) < 0.9)


def unit(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


def named(kind, own, pool, taken, among):
    """What of the pool a set names next, by its columns of the (N, T) table of cosines."""
    if kind.startswith("mmr"):
        weight = int(kind[4:])

        def gain(i):
            return weight * own[i].max() - (100 - weight) * max([0, *among[i, taken]])

        return [min(pool, key=lambda i: (-gain(i), i))]
    if kind in CRITERIA:
        way = kind[4:]
        order = sorted(range(len(own)), key=lambda i: (-CRITERIA[kind](own[i]), i))
        return [next(i for i in (order if way == "nft" else order[::-1]) if i in pool)]
    sign = -1 if kind == "tmta-max" else 1
    return sorted({min(pool, key=lambda i, one=one: (-sign * one[i], i)) for one in own.T})


CRITERIA = {"min-nft": np.max, "min-fft": np.max, "max-nft": np.min, "max-fft": np.min}


def naive(kind, pool, targets, sets, index, wanted):
    """Rows, each with its set, as the rules say it."""
    cosines, among = unit(pool) @ unit(targets).T, unit(pool) @ unit(pool).T
    left, chosen, order = list(range(len(pool))), [[] for _ in sets], []
    while left and len(order) < wanted:
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
        found = named(kind, cosines[:, own], left, [row for row, _ in order], among)
        chosen[k] += found
        order += [(row, k) for row in found]
        left = [row for row in left if row not in found]
    return order


SETS = st.lists(
    st.tuples(st.fractions(Fraction(1, 9), 9, max_denominator=9), st.none() | st.integers(1, 12)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["targets", "tmta-min", "tmta-max", "mmr-100", "mmr-60", *CRITERIA]),
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
    wanted = rows if budget is None else min(budget, rows)
    expected = naive(kind, pool, targets, sets, index, wanted)
    assert made.order.tolist() == [row for row, _ in expected]
    told = of_sets(kind, given, made.order)["target_sets"]
    for k, one in enumerate(sets):
        own = [row for row, by in expected if by == k]
        facts = told[one.name]
        assert facts["share"] == str(one.share)
        assert (facts["budget"], facts["rows"]) == (one.budget, len(own))
        assert facts["test_rows"] == (index == k).sum()
        if facts["test_rows"] and expected:
            met = cosines[[row for row, _ in expected]][:, index == k].max(axis=0).mean()
            assert facts["nearest"] == pytest.approx(met, abs=1e-6)
        if own:
            best = cosines[own][:, index == k].max(axis=1).mean()
            assert facts["similarity"] == pytest.approx(best, abs=1e-6)
        else:
            assert facts["similarity"] is None


@settings(max_examples=30)
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
    for name in ("targets", "tmta-min", "tmta-min-max", "wsd-nft", "coverage", "mmr-70"):
        first, second = (arrange(name, inputs, 0) for inputs in (plain, shared))
        assert first.order.tolist() == second.order.tolist()
        assert first.turn.tolist() == second.turn.tolist()


def drawn(seed, rows, budget, index, *sets):
    """A pool, targets, and their comparison, of target sets as (name, share, its budget)."""
    rng = np.random.default_rng(seed)
    pool, targets = rng.normal(size=(rows, 6)), rng.normal(size=(len(index), 6))
    told = [TargetSet(name, Fraction(share), own) for name, share, own in sets]
    index = np.array(index, np.int32)
    given = Comparison(pool, targets, range(rows), budget=budget, sets=told, set_index=index)
    return pool, targets, given


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["tmta-min-max", "tmta-max-min", "tmta-random"])
def test_halves_of_both_tell_what_each_set_chose(name, seed):
    *_, given = drawn(seed, 50, 36, [0, 1, 1, 0], ("a", 1, None), ("b", 1, 17))
    made = arrange(name, given, 0)
    told = of_sets(name, given, made.order)["target_sets"]
    ends = {what: arrange(f"tmta-{what}", given, 0) for what in ("min", "max")}
    first, second = ("max", "min") if name == "tmta-max-min" else ("min", "max")
    whole = ends[first].turn <= ends[first].turn[given.wanted - given.wanted // 2 - 1]
    half = set(ends[first].order[whole].tolist())
    by = {"min": given.shares["nearest"].chosen, "max": given.shares["farthest"].chosen}
    for k, facts in enumerate(told.values()):
        rows = [row for row in by[first][k] if row in half]
        rows += [row for row in by[second][k] if row in {*made.order.tolist()} - half]
        assert facts["rows"] == len(rows)
    assert sum(one["rows"] for one in told.values()) == len(made.order)
    plain = of_sets("random", given, made.order)["target_sets"]["a"]
    assert "rows" not in plain
    assert plain["nearest"] == told["a"]["nearest"]


def test_each_set_has_weights_of_its_own():
    index = np.array([0, 1, 1, 0, 1])
    pool, targets, given = drawn(2, 40, 12, index, ("a", 1, None), ("b", 3, None))
    made = arrange("wsd-nft", given, 0)
    told = of_sets("wsd-nft", given, made.order)["target_sets"]
    alone = [Comparison(pool, targets[index == k], range(40), budget=None) for k in (0, 1)]
    assert [one["rows"] for one in told.values()] == [3, 9]
    for one, facts in zip(alone, told.values(), strict=True):
        assert facts["w_avg"] == made_with("wsd-nft", one)["w_avg"]
    assert "w_avg" not in made_with("wsd-nft", given)
    # The first of each set is the nearest to it.
    firsts = [int(arrange("wsd-nft", one, 0).order[0]) for one in alone]
    assert made.order[:2].tolist() == firsts


def test_covering_counts_test_rows_by_the_shares_of_their_sets():
    index, many = [1, 1, 0, 1, 1], ("many", 1, None)
    pool, targets, given = drawn(3, 60, 20, index, ("few", 9, None), many)
    made = arrange("coverage", given, 0)
    # A row of "few" counts 9, one of "many" 1/4: 36 times as much. So it is as if it came 36 times.
    repeated = np.concatenate([targets[[2] * 36], targets[[0, 1, 3, 4]]])
    plain = Comparison(pool, repeated, range(60), budget=20)
    assert made.order.tolist() == arrange("coverage", plain, 0).order.tolist()
    told = of_sets("coverage", given, made.order)["target_sets"]
    assert [one["weight"] for one in told.values()] == [1, pytest.approx(1 / 36)]
    assert "rows" not in told["few"]
    *_, given = drawn(3, 60, 20, index, ("few", 9, 5), many)
    with pytest.raises(UserError, match="coverage: the target set 'few' has a budget"):
        arrange("coverage", given, 0)
