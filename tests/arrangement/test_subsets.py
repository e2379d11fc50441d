import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.subsets import halves, polar, turn_range, uniform
from zsg_jax.runtime.errors import UserError

ROWS = st.lists(
    st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.25]), st.sampled_from("abcd")), max_size=40
)


def by_rank(rows):
    """Each task's rows by distance, ties to the lower index."""
    return [
        sorted((i for i, (_, t) in enumerate(rows) if t == task), key=lambda i: (rows[i][0], i))
        for task in {task for _, task in rows}
    ]


def columns(rows):
    return np.array([d for d, _ in rows], np.float32), [task for _, task in rows]


def pairs(arrangement):
    return list(zip(arrangement.order.tolist(), arrangement.turn.tolist(), strict=True))


@given(ROWS, st.integers(1, 12))
def test_polar_takes_both_ends_of_each_task(rows, n):
    expected = set()
    for ranked in by_rank(rows):
        expected |= set(ranked[: (n + 1) // 2]) | set(ranked[max(0, len(ranked) - n // 2) :])
    assert pairs(polar(*columns(rows), n)) == [(row, 1) for row in sorted(expected)]


@given(ROWS, st.integers(1, 12))
def test_uniform_takes_every_kth_of_each_task(rows, k):
    expected = sorted(row for ranked in by_rank(rows) for row in ranked[::k])
    assert pairs(uniform(*columns(rows), k)) == [(row, 1) for row in expected]


@st.composite
def some_turns(draw, rows=12):
    order = draw(st.permutations(range(rows)))
    sizes = draw(st.lists(st.integers(1, 4), min_size=3, max_size=3))
    turn = np.repeat(np.arange(1, 5), [*sizes, rows - sum(sizes)])
    kept = draw(st.integers(0, rows))
    return Arrangement(np.array(order)[:kept], turn[:kept])


@given(some_turns(), some_turns(), st.integers(0, 30))
def test_halves_are_the_start_of_one_and_the_start_of_the_other_backward(first, second, rows):
    near = pairs(first)[: rows - rows // 2]
    past = max((turn for _, turn in near), default=0)
    taken = {row for row, _ in near}
    far = [(row, past + turn) for row, turn in pairs(second)[: rows // 2] if row not in taken]
    assert pairs(halves(first, second, rows)) == near + far[::-1]


def test_turns_are_counted_from_one_and_the_end_is_left_out():
    turns = Arrangement(np.array([4, 6, 0, 1, 5]), np.array([1, 1, 2, 3, 3]))
    assert pairs(turn_range(turns, 1, 3)) == [(4, 1), (6, 1), (0, 2)]
    assert pairs(turn_range(turns, 2, 9)) == [(0, 2), (1, 3), (5, 3)]
    one_by_one = [pair for turn in (1, 2, 3) for pair in pairs(turn_range(turns, turn, turn + 1))]
    assert one_by_one == pairs(turns)


NOTHING = Arrangement(np.array([]), np.array([]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: polar(np.zeros(2), "ab", 0), "n=0"),
        (lambda: uniform(np.zeros(2), "ab", 0), "k=0"),
        (lambda: uniform(np.array([np.nan]), "a", 1), r"rows \[0\] hold a NaN"),
        (lambda: polar(np.zeros(2), "a", 1), "2 distances and 1 tasks"),
        (lambda: turn_range(NOTHING, 0, 1), "at least 1"),
        (lambda: turn_range(NOTHING, 2, 2), "the end above it"),
        (lambda: turn_range(NOTHING, 1, 2), "there are 0 turns"),
        (lambda: halves(NOTHING, NOTHING, -1), "rows=-1"),
    ],
)
def test_what_is_no_subset_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
