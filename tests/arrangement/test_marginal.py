"""Maximal marginal relevance against the choice that compares all with all each time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.arrangement import diverse
from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import arrange, made_with, needs, parse
from zsg_jax.report.words import plain_name
from zsg_jax.runtime.errors import UserError


def exact(rows, generator):
    """± ones, 4 long, some rows 0: float32 holds their cosines exactly, and many are equal."""
    return generator.choice([-1.0, 1.0], (rows, 4)) * (generator.random((rows, 1)) < 0.9)


def unit(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


def naive(pool, targets, weight, length):
    """Order, and each one's largest cosine with those before it in whose lists it finds them."""
    among, relevance = unit(pool) @ unit(pool).T, (unit(pool) @ unit(targets).T).max(axis=1)
    lists = [
        sorted(range(len(pool)), key=lambda j, row=row: (-row[j], j))[:length] for row in among
    ]
    chosen, redundancy = [], []

    def like(i):
        return max([0.0, *(among[i, s] for s in chosen if s in lists[i])])

    while len(chosen) < len(pool):
        left = [i for i in range(len(pool)) if i not in chosen]
        best = min(left, key=lambda i: (-(weight * relevance[i] - (100 - weight) * like(i)), i))
        redundancy.append(like(best))
        chosen.append(best)
    return chosen, redundancy, relevance


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 24),
    st.integers(1, 5),
    st.integers(1, 100),
    st.integers(1, 30),
    st.one_of(st.none(), st.integers(1, 30)),
)
def test_the_greedy_choice_over_lists(seed, rows, tests, weight, length, budget):
    rng = np.random.default_rng(seed)
    pool, targets = exact(rows, rng), exact(tests, rng)
    name = f"mmr-{weight}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diverse, "LIST", length)
        given = Comparison(pool, targets, range(rows), budget=budget, needs=needs([name]))
        made, told = arrange(name, given, 0), made_with(name, given)
    order, redundancy, relevance = naive(pool, targets, weight, length)
    assert made.order.tolist() == order[:budget]
    assert set(made.turn.tolist()) == {1}
    assert told["redundancy"] == pytest.approx(np.mean(redundancy[:budget]))
    assert told["relevance"] == pytest.approx(relevance[order[:budget]].mean())


def test_without_redundancy_it_is_nearest_first_and_with_it_copies_wait():
    rng = np.random.default_rng(0)
    pool, targets = rng.normal(size=(300, 8)), rng.normal(size=(3, 8))
    given = Comparison(pool, targets, range(300), budget=None)
    nearest = arrange("min-nft", given, 0).order
    assert arrange("mmr-100", given, 0).order.tolist() == nearest.tolist()
    # A copy of the nearest row comes second by nearness, and far behind by mmr-50.
    pool[nearest[-1]] = pool[nearest[0]]
    given = Comparison(pool, targets, range(300), budget=None)
    pair = sorted((nearest[0], nearest[-1]))
    assert sorted(arrange("mmr-100", given, 0).order[:2]) == pair
    later = arrange("mmr-50", given, 0).order.tolist()
    assert later[0] == pair[0]
    assert later.index(pair[1]) > 20
    less = [
        made_with(f"mmr-{w}", Comparison(pool, targets, range(300), budget=30)) for w in (90, 50)
    ]
    assert less[0]["redundancy"] > less[1]["redundancy"]
    assert less[0]["relevance"] > less[1]["relevance"]


def test_nothing_to_be_near_to():
    given = Comparison(np.ones((3, 2)), np.empty((0, 2)), range(3), budget=None)
    with pytest.raises(UserError, match="empty"):
        arrange("mmr-70", given, 0)


def test_names():
    for name in ("mmr", "mmr-0", "mmr-101", "mmr-0.5"):
        with pytest.raises(UserError, match=r"write mmr-N .*, as in mmr-70"):
            parse(name, 0)
    assert "70 %" in plain_name("mmr-70+folds-2")
