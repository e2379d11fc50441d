import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.permutations import number_tasks, random
from zsg_jax.arrangement.subsets import halves, of_tasks, turn_range
from zsg_jax.runtime.errors import UserError

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


@settings(max_examples=100)
@given(st.lists(st.integers(0, 6), min_size=1), st.integers(1, 9), st.integers(1, 40), st.data())
def test_equal_budgets_of_a_number_of_tasks(names, n, budget, data):
    tasks = number_tasks(names)
    seed = data.draw(st.integers(0, 99))
    budget = data.draw(st.sampled_from([None, min(budget, len(tasks))]))
    sizes = np.bincount(tasks)
    share = 1 if budget is None else math.ceil(budget / n)
    if (sizes >= share).sum() < n or (budget or n) < n:
        with pytest.raises(UserError, match="ask for fewer tasks"):
            of_tasks(tasks, n, budget, seed)
        return
    order = of_tasks(tasks, n, budget, seed).tolist()
    assert order == [i for i in random(len(tasks), seed) if i in order]
    found = Counter(tasks[order].tolist())
    assert len(found) == n
    if budget is None:
        assert found == {task: sizes[task] for task in found}
    else:
        assert len(order) == budget
        assert max(found.values()) - min(found.values()) <= 1
    assert order == of_tasks(tasks, n, budget, seed).tolist()


def test_other_seeds_draw_other_tasks_each_as_likely():
    tasks = np.repeat(np.arange(5), 3)
    drawn = [tuple(sorted(set(tasks[of_tasks(tasks, 2, 4, seed)]))) for seed in range(600)]
    assert len(set(drawn)) == 10
    assert all(30 < count < 95 for count in Counter(drawn).values())
