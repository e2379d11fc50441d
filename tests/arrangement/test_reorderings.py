import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.arrangement import reorderings
from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import arrange, made_with, needs, parse
from zsg_jax.report.words import plain_name
from zsg_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def comparison():
    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(n, 8)).astype(np.float32) for n in (37, 5))
    names = ("min-nft", "tmta-rt")
    return Comparison(train, test, np.arange(37) % 3, budget=30, needs=needs(names))


@given(
    base=st.sampled_from(["min-nft", "tmta-rt", "round-robin"]),
    how=st.sampled_from(["folds", "zigzag", "window"]),
    number=st.integers(2, 50),
    seed=st.integers(0, 3),
)
def test_the_same_examples_in_the_order_that_the_name_says(comparison, base, how, number, seed):
    plain = arrange(base, comparison, seed)
    found = arrange(f"{base}+{how}-{number}", comparison, seed)
    turns = dict(zip(plain.order.tolist(), plain.turn.tolist(), strict=True))
    assert dict(zip(found.order.tolist(), found.turn.tolist(), strict=True)) == turns
    order = plain.order.tolist()
    if how == "window":
        for start in range(0, len(order), number):
            here = slice(start, start + number)
            assert sorted(found.order[here]) == sorted(order[here])
        return
    parts = [order[first::number] for first in range(number)]
    if how == "zigzag":
        parts = [part[::-1] if i % 2 else part for i, part in enumerate(parts)]
    assert found.order.tolist() == list(itertools.chain(*parts))


def test_a_window_is_shuffled_by_its_seed_and_they_follow_one_another(comparison):
    name = "min-nft+window-10"
    one, other = (arrange(f"{name}@{seed}", comparison, 0).order.tolist() for seed in (0, 1))
    assert one != other
    assert one == arrange(name, comparison, 0).order.tolist()
    assert one != arrange("min-nft", comparison, 0).order.tolist()
    both = arrange(f"{name}+folds-2", comparison, 0).order.tolist()
    assert both == one[::2] + one[1::2]


@given(n=st.integers(0, 200), parts=st.integers(2, 12), seed=st.integers(0, 5))
def test_half_of_a_stage_is_of_its_stretch_and_half_of_all(n, parts, seed):
    found, stretch = reorderings.stages(n, parts, seed), [i * parts // n for i in range(n)]
    assert sorted(found) == list(range(n))
    sizes = [stretch.count(p) for p in range(parts)]
    dealt, before = [[0] * parts for _ in range(parts)], 0
    # Every other row of each stretch, of the whole course, goes to the stages one after the other.
    for p, size in enumerate(sizes):
        for place in range(before, before + size):
            if place % 2:
                dealt[place // 2 % parts][p] += 1
        before += size
    start = 0
    for stage, row in enumerate(dealt):
        own = sizes[stage] - sum(one[stage] for one in dealt)
        here = found[start : start + own + sum(row)]
        start += len(here)
        given = [sum(stretch[i] == p for i in here) for p in range(parts)]
        assert given == [count + own * (p == stage) for p, count in enumerate(row)]


def test_stages_go_by_their_seed_and_shuffle():
    one, other = (reorderings.stages(300, 3, seed).tolist() for seed in (0, 1))
    assert one != other
    assert one == reorderings.stages(300, 3, 0).tolist()
    # Each stage has the mean place of its mixture: of half its own third and half of all.
    means = [np.mean(one[start : start + 100]) for start in (0, 100, 200)]
    assert means == pytest.approx([100, 150, 200], abs=15)
    assert one[:100] != sorted(one[:100])


def test_the_first_rows_alone(comparison):
    whole = arrange("tmta-rt", comparison, 0)
    for number in (2, 30, 99):
        found = arrange(f"tmta-rt+first-{number}", comparison, 0)
        assert found.order.tolist() == whole.order.tolist()[:number]
        assert found.turn.tolist() == whole.turn.tolist()[:number]


def test_what_stands_behind_a_plus_is_known(comparison):
    for name in ("min-nft+", "min-nft+fold-2", "min-nft+folds", "min-nft+folds-1", "+folds-2"):
        with pytest.raises(UserError, match="folds"):
            parse(name, 0)
    with pytest.raises(UserError, match="draws nothing"):
        parse("min-nft+folds-2@1", 0)


def test_plain_names():
    assert (
        plain_name("min-nft+folds-4")
        == "nearest first, by the nearest test row, in 4 interleaved parts"
    )
    assert plain_name("tmta-nft+window-64@2") == "nearest first, every 64 rows shuffled"
    assert plain_name("tmta-nft+first-9+window-9") == (
        "nearest first, the first 9 alone, every 9 rows shuffled"
    )
    assert plain_name("avg-nft+stages-3").endswith("in 3 stages, half of each from the whole")
    assert plain_name("nothing+folds-4") == ""


@pytest.mark.parametrize("base", ["mmr-70", "coverage", "diverse-20"])
def test_what_is_told_of_the_chosen_is_told_of_all_of_them_alone(base):
    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(n, 8)).astype(np.float32) for n in (37, 5))
    given = Comparison(train, test, np.zeros(37, int), budget=None, needs=needs([base]))
    told = made_with(base, given)
    assert len(told) > 1
    assert made_with(f"{base}+folds-4", given) == told
    assert made_with(f"{base}+folds-4+first-5", given) == {"metric": told["metric"]}
