import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.report.explain import pairs
from zsg_jax.report.explain.pairs import cut, passages, pick

CANDIDATES = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 4), st.sampled_from([0.1, 0.5, 0.9])),
    max_size=25,
    unique_by=lambda one: one[:2],
)


def chosen(candidates, count):
    columns = [np.array([one[i] for one in candidates]) for i in range(3)]
    return pick(columns[0].astype(int), columns[1].astype(int), columns[2].astype(float), count)


def naive(candidates, count):
    """First pairs that repeat neither side, and then pairs that repeat a test row only."""
    ranked = sorted(candidates, key=lambda one: (-one[2], one[0], one[1]))
    found = []
    for may_repeat in (False, True):
        for one in ranked:
            new = all(one[0] != other[0] for other in found)
            free = may_repeat or all(one[1] != other[1] for other in found)
            if len(found) < count and new and free:
                found.append(one)
    return sorted(found, key=lambda one: -one[2])


@given(CANDIDATES, st.integers(1, 6))
def test_pairs_repeat_a_test_row_only_for_want_of_others(candidates, count):
    assert chosen(candidates, count) == naive(candidates, count)


@given(st.text(min_size=1, max_size=200), st.integers(5, 60))
def test_a_cut_is_a_beginning_and_loses_no_letter(text, limit):
    found = cut("user", text, limit)
    assert found.text == text.strip()
    assert found.missing == 0
    if found.short is None:
        assert len(text.strip()) <= 1.2 * limit
    else:
        assert text.strip().startswith(found.short)
        assert len(found.short) <= limit


def test_a_cut_falls_between_words():
    assert cut("user", "some words that go on " * 9, 20).short == "some words that go"


def test_a_text_without_end_is_cut_even_when_opened():
    found = cut("user", "x" * (pairs.LONGEST + 17), 300)
    assert len(found.text) == pairs.LONGEST
    assert found.missing == 17


def test_the_answer_is_cut_shorter_than_the_prompt():
    turns = (Turn("system", "s"), Turn("user", "u" * 300), Turn("assistant", "a" * 300))
    found = passages(Instance("i", "t", turns, ("a",)))
    assert [one.role for one in found] == ["system", "user", "assistant"]
    assert [one.short and len(one.short) for one in found] == [None, None, pairs.ANSWER]
