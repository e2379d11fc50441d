"""Orders by a number of the rows' own, against Python's sorted()."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import arrange, columns, example_distance, needs, parse
from zsg_jax.arrangement.needs import Needs
from zsg_jax.report.words import plain_name
from zsg_jax.runtime.errors import UserError

NUMBERS = st.one_of(
    st.integers(-3, 3), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([-0.0])
)


def compared(scores, budget=None):
    rows = np.ones((len(scores), 2), np.float32)
    return Comparison(
        rows,
        rows[:1],
        np.zeros(len(scores), int),
        budget=budget,
        scores={"quality": np.array(scores, np.float64)}.__getitem__,
    )


@given(
    scores=st.lists(NUMBERS, min_size=1, max_size=30),
    down=st.booleans(),
    budget=st.one_of(st.none(), st.integers(0, 40)),
    again=st.sampled_from(["", "+folds-2", "+zigzag-3", "+window-4"]),
    seed=st.integers(0, 3),
)
def test_the_order_is_that_of_sorted_equal_numbers_by_the_lower_index(
    scores, down, budget, again, seed
):
    name = f"score-{'descending' if down else 'ascending'}:quality"
    sign = -1 if down else 1
    expected = sorted(range(len(scores)), key=lambda i: (sign * scores[i], i))[:budget]
    given = compared(scores, budget)
    assert arrange(name, given, seed).order.tolist() == expected
    found = arrange(name + again, given, seed).order.tolist()
    if again.startswith("+window"):
        for start in range(0, len(expected), 4):
            assert sorted(found[start : start + 4]) == sorted(expected[start : start + 4])
        return
    number = int(again[-1]) if again else 1
    parts = [expected[first::number] for first in range(number)]
    if again.startswith("+zigzag"):
        parts = [part[::-1] if i % 2 else part for i, part in enumerate(parts)]
    assert found == list(itertools.chain(*parts))


def test_what_it_goes_by_is_told_and_no_embedding_is_looked_at():
    name = "score-ascending:quality"
    distance, meaning = example_distance(name, compared([3.0, 1.0]))
    assert distance.tolist() == [3.0, 1.0]
    assert "quality" in meaning
    assert needs([name, f"{name}+folds-2"]) == Needs.NOTHING
    names = ["min-nft", "score-descending:a.b-c+window-2@3", "score-ascending:a.b-c", name]
    assert columns(names) == ["a.b-c", "quality"]
    assert (
        plain_name("score-ascending:quality+folds-4")
        == "the least quality first, in 4 interleaved parts"
    )
    assert plain_name("score-descending:a.b") == "the most a.b first"


@pytest.mark.parametrize(
    "name", ["score-ascending", "score-descending:", "score-ascending:a b", "score-ascending:a/b"]
)
def test_a_name_without_a_field_is_refused(name):
    with pytest.raises(UserError, match=r"write score-\w+:COLUMN"):
        parse(name, 0)
    with pytest.raises(UserError, match="draws nothing"):
        parse("score-ascending:quality@3", 0)


def test_embeddings_alone_carry_no_number():
    rows = np.ones((2, 2))
    given = Comparison(rows, rows, np.zeros(2, int), budget=None)
    with pytest.raises(UserError, match="give rows"):
        arrange("score-ascending:quality", given, 0)
