import numpy as np

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.subsets import halves, turn_range

TURNS = Arrangement(np.array([4, 6, 0, 1, 5]), np.array([1, 1, 2, 3, 3]))
NOTHING = Arrangement(np.array([]), np.array([]))


def pairs(arrangement):
    return list(zip(arrangement.order.tolist(), arrangement.turn.tolist(), strict=True))


def test_turns_are_counted_from_one_and_the_end_is_left_out():
    assert pairs(turn_range(TURNS, 1, 3)) == [(4, 1), (6, 1), (0, 2)]
    assert pairs(turn_range(TURNS, 2, 9)) == [(0, 2), (1, 3), (5, 3)]


def test_turns_of_the_second_half_are_counted_on():
    other = Arrangement(np.array([7, 5, 6, 2]), np.array([1, 2, 2, 3]))
    assert pairs(halves(TURNS, other, 1)) == [(4, 1), (6, 1)]
    assert pairs(halves(TURNS, other, 4)) == [(4, 1), (6, 1), (5, 3), (7, 2)]
    assert pairs(halves(NOTHING, other, 2)) == [(7, 1)]
    assert pairs(halves(TURNS, NOTHING, 0)) == []
