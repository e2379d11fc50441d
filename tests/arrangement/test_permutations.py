import numpy as np
import pytest

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.permutations import backward, coarse, random, shuffled
from zsg_jax.runtime.errors import UserError

TMTA = Arrangement(np.arange(8), np.repeat([1, 2], 4))


def test_seeds_differ_and_stay():
    # Written out, since a seed has to give the same run under every NumPy.
    assert shuffled(TMTA, 0).order.tolist() == [2, 4, 3, 6, 5, 0, 1, 7]
    assert shuffled(TMTA, 1).order.tolist() != shuffled(TMTA, 0).order.tolist()
    with pytest.raises(UserError, match="seed=-1"):
        random(3, -1)


def test_an_example_keeps_its_turn_wherever_it_stands():
    for moved in (shuffled(TMTA, 0), backward(TMTA)):
        assert (moved.turn == np.where(moved.order < 4, 1, 2)).all()
    assert backward(TMTA).order.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


def test_as_many_tasks_as_examples_and_none():
    assert coarse(np.arange(3), np.array([3.0, 1.0, 2.0])).tolist() == [1, 2, 0]
    assert coarse(np.empty(0, int), np.empty(0)).tolist() == []
