import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zsg_jax.arrangement import tmta
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search.cosine import cosine_matrix
from zsg_jax.similarity.search.options import Search

MODULE = sys.modules["zsg_jax.arrangement.turns"]  # the package's `tmta` is the function


def naive(similarity_NxT, budget=None, farthest=False):
    """Algorithm 1 as the paper writes it, with the whole matrix."""
    similarity = -similarity_NxT if farthest else similarity_NxT
    pool = list(range(len(similarity)))
    order, turn = [], []
    while pool and (budget is None or len(order) < budget):
        named = {
            max(pool, key=lambda i, j=j: (similarity[i, j], -i)) for j in range(similarity.shape[1])
        }
        turn += [turn[-1] + 1 if turn else 1] * len(named)
        order += sorted(named)
        pool = [i for i in pool if i not in named]
    return order, turn


def exact(rows, generator):
    """Zero rows, ± unit vectors and ± ones, 16 long: float32 holds their cosines exactly."""
    signs = generator.choice([-1.0, 1.0], size=(rows, 16))
    single = np.eye(16)[generator.integers(0, 16, rows)] * signs
    kind = generator.integers(0, 3, rows)[:, None]
    scale = 2.0 ** generator.integers(-3, 4, size=(rows, 1))
    return np.select([kind == 0, kind == 1], [single, signs], 0.0) * scale


def gaussians(rows, generator):
    return generator.normal(size=(rows, 12)).astype(np.float32)


def in_float64(train, test):
    train, test = (
        x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
        for x in (train.astype(np.float64), test.astype(np.float64))
    )
    return train @ test.T


def as_lists(arrangement):
    return arrangement.order.tolist(), arrangement.turn.tolist()


SIZES = st.one_of(st.integers(0, 40), st.sampled_from([90, 260, 520]))
TESTS = st.one_of(st.just(1), st.integers(1, 12), st.just(60))
BUDGETS = st.one_of(st.none(), st.integers(0, 600))
LENGTHS = st.one_of(st.none(), st.integers(1, 30))
BLOCKS = st.sampled_from([1, 512, 8192])
SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=60)
@given(
    SIZES, TESTS, BUDGETS, st.booleans(), LENGTHS, BLOCKS, SEEDS,
    st.sampled_from(["exact ties", "gaussians", "repeats"]),
)  # fmt: skip
def test_the_turns_are_those_of_the_whole_matrix(n, t, budget, farthest, k, block_size, seed, kind):
    generator = np.random.default_rng(seed)
    make = exact if kind == "exact ties" else gaussians
    train, test = make(n, generator), make(t, generator)
    if kind == "repeats" and n:
        train = train[generator.integers(0, -(-n // 3), n)]
        test[::2] = train[generator.integers(0, n, len(test[::2]))]
        similarity = cosine_matrix(train, test).astype(np.float64)
    else:
        similarity = in_float64(train, test)
    if kind == "gaussians":
        gaps = np.diff(np.sort(similarity, axis=0), axis=0)
        assume(gaps.size == 0 or gaps.min() > 1e-6)
    found = tmta(
        train, test, budget=budget, farthest=farthest, k=k, search=Search(block_size=block_size)
    )
    assert as_lists(found) == naive(similarity, budget, farthest)


@settings(max_examples=15)
@given(st.integers(1, 200), TESTS, BUDGETS, st.booleans(), SEEDS)
def test_a_budget_only_cuts_whole_turns_off(n, t, budget, farthest, seed):
    generator = np.random.default_rng(seed)
    train, test = (generator.normal(size=(rows, 12)).astype(np.float32) for rows in (n, t))
    whole = tmta(train, test, farthest=farthest)
    assert sorted(whole.order.tolist()) == list(range(n))
    assert (whole.turn_sizes >= 1).all()
    assert (whole.turn_sizes <= t).all()
    part = tmta(train, test, farthest=farthest, budget=budget)
    wanted = n if budget is None else min(budget, n)
    assert wanted <= len(part) < wanted + max(t, 1)
    np.testing.assert_array_equal(part.order, whole.order[: len(part)])
    np.testing.assert_array_equal(part.turn_sizes, whole.turn_sizes[: len(part.turn_sizes)])
    assert part.turn_sizes[:-1].sum() < max(wanted, 1)


def test_a_zero_row_lies_between_the_near_and_the_opposed():
    train = np.array([[-1, 0], [0, 0], [1, 0], [0, 0]], np.float32)
    test = np.array([[1, 0]], np.float32)
    assert tmta(train, test).order.tolist() == [2, 1, 3, 0]
    assert tmta(train, test, farthest=True).order.tolist() == [0, 1, 3, 2]


def test_lists_that_run_dry_are_made_from_the_rows_that_remain(monkeypatch):
    passes = []

    def counted(train, test, k, *, excluded, **options):
        passes.append(k)
        return top_k(train, test, k, excluded=excluded, **options)

    top_k = MODULE.top_k
    monkeypatch.setattr(MODULE, "top_k", counted)
    generator = np.random.default_rng(0)
    train, test = (generator.normal(size=(rows, 12)).astype(np.float32) for rows in (300, 6))
    expected = naive(in_float64(train, test))
    assert as_lists(tmta(train, test)) == expected
    assert passes == [300]
    passes.clear()
    assert as_lists(tmta(train, test, k=4)) == expected
    assert passes[:3] == [4, 8, 16]
    assert len(passes) < 9


def test_a_large_set_takes_one_pass_over_short_lists(monkeypatch):
    monkeypatch.setattr(MODULE, "FULL_SORT_ROWS", 100)
    train, test = (np.random.default_rng(s).normal(size=(n, 12)) for s, n in ((0, 900), (1, 20)))
    short = tmta(train, test, budget=300)
    monkeypatch.undo()
    assert as_lists(short) == as_lists(tmta(train, test, budget=300))


def test_what_cannot_be_arranged_is_refused():
    rows = np.ones((3, 2), np.float32)
    nan = np.array([[1, 1], [1, np.nan]], np.float32)
    with pytest.raises(UserError, match="test set is empty"):
        tmta(rows, rows[:0])
    with pytest.raises(UserError, match="budget=-1"):
        tmta(rows, rows, budget=-1)
    with pytest.raises(UserError, match="k=0"):
        tmta(rows, rows, k=0)
    with pytest.raises(UserError, match="train: row 1 holds a NaN"):
        tmta(nan, rows)
    with pytest.raises(UserError, match="test: row 1 holds a NaN"):
        tmta(rows, nan)
    with pytest.raises(UserError, match="train: some are masked"):
        tmta(np.ma.masked_array(rows, rows > 0), rows)
    with pytest.raises(UserError, match="2 columns and test has 1"):
        tmta(rows, rows[:, :1])
    assert as_lists(tmta(rows[:0], rows)) == ([], [])
    assert as_lists(tmta(rows, rows, budget=0)) == ([], [])
