import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.arrangement import Arrangement
from zsg_jax.arrangement.permutations import (
    by_distance,
    cluster,
    coarse,
    farthest_first,
    nearest_first,
    random,
    round_robin,
    shuffled,
)
from zsg_jax.runtime.errors import UserError


def pairs(arrangement):
    return list(zip(arrangement.order.tolist(), arrangement.turn.tolist(), strict=True))


@st.composite
def by_turns(draw):
    """What TMTA gives: turns ascending, row indices ascending inside a turn."""
    sizes = draw(st.lists(st.integers(1, 5), max_size=8))
    rows = draw(st.permutations(range(sum(sizes) + 3)))
    order, turn, start = [], [], 0
    for number, size in enumerate(sizes, 1):
        order += sorted(rows[start : start + size])
        turn += [number] * size
        start += size
    return Arrangement(np.array(order, int), np.array(turn, int))


@given(by_turns(), st.integers(0, 2**63))
def test_permutations_keep_rows_and_their_turns(tmta, seed):
    assert pairs(nearest_first(tmta)) == pairs(tmta)
    backward = sorted(pairs(tmta), key=lambda pair: (-pair[1], pair[0]))
    assert pairs(farthest_first(tmta)) == backward
    assert pairs(nearest_first(farthest_first(tmta))) == pairs(tmta)
    mixed = shuffled(tmta, seed)
    assert sorted(pairs(mixed)) == sorted(pairs(tmta))
    assert pairs(shuffled(tmta, seed)) == pairs(mixed)


def test_seeds_differ_and_stay():
    tmta = Arrangement(np.arange(8), np.repeat([1, 2], 4))
    # Written out, since a seed has to give the same run under every NumPy.
    assert shuffled(tmta, 0).order.tolist() == [2, 4, 3, 6, 5, 0, 1, 7]
    assert shuffled(tmta, 1).order.tolist() != shuffled(tmta, 0).order.tolist()
    with pytest.raises(UserError, match="seed=-1"):
        shuffled(tmta, -1)


TASKS = st.lists(st.sampled_from("abcdefgh"), max_size=40)
BUDGETS = st.one_of(st.none(), st.integers(0, 50))
# Few values, so that there are ties.
DISTANCE = st.sampled_from([-1.0, -0.5, -0.0, 0.0, 0.25])


def in_order(tasks):
    """The tasks in order of first appearance, and the rows of each."""
    return {task: [i for i, t in enumerate(tasks) if t == task] for task in dict.fromkeys(tasks)}


def is_first(arrangement, order, budget):
    kept = order if budget is None else order[:budget]
    return pairs(arrangement) == [(row, 1) for row in kept]


@given(st.integers(0, 40), st.integers(0, 2**63), BUDGETS)
def test_random_is_a_permutation_that_a_seed_fixes(n, seed, budget):
    whole = random(n, seed).order.tolist()
    assert sorted(whole) == list(range(n))
    assert is_first(random(n, seed, budget=budget), whole, budget)


@given(TASKS, BUDGETS)
def test_round_robin_deals_one_row_of_each_task_in_turn(tasks, budget):
    queues, order = in_order(tasks), []
    while any(queues.values()):
        order += [queue.pop(0) for queue in queues.values() if queue]
    assert is_first(round_robin(tasks, budget=budget), order, budget)


@given(TASKS, BUDGETS)
def test_cluster_gives_task_after_task(tasks, budget):
    order = [row for rows in in_order(tasks).values() for row in rows]
    assert is_first(cluster(tasks, budget=budget), order, budget)


@given(st.lists(DISTANCE, max_size=30), st.booleans(), BUDGETS)
def test_by_distance_sorts_with_ties_to_the_lower_index(distance, descending, budget):
    sign = -1 if descending else 1
    order = sorted(range(len(distance)), key=lambda i: (sign * distance[i], i))
    found = by_distance(np.array(distance, np.float32), descending=descending, budget=budget)
    assert is_first(found, order, budget)


@given(TASKS, st.lists(DISTANCE, min_size=8, max_size=8), st.booleans(), BUDGETS)
def test_coarse_sorts_tasks_and_keeps_each_together(tasks, of_task, descending, budget):
    groups = in_order(tasks)
    distance = dict(zip(groups, of_task, strict=False))
    sign = -1 if descending else 1
    # `sorted` is stable: equal tasks stay in order of first appearance.
    order = [i for t in sorted(groups, key=lambda t: sign * distance[t]) for i in groups[t]]
    values = np.array(list(distance.values()))
    found = coarse(tasks, values, descending=descending, budget=budget)
    assert is_first(found, order, budget)


def test_one_task_and_as_many_tasks_as_rows():
    assert (
        round_robin(["a"] * 4).order.tolist() == cluster(["a"] * 4).order.tolist() == [0, 1, 2, 3]
    )
    assert round_robin("cab").order.tolist() == cluster("cab").order.tolist() == [0, 1, 2]
    assert coarse("cab", np.array([3.0, 1.0, 2.0])).order.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random(3, -1), "seed=-1"),
        (lambda: random(3, 0, budget=-1), "budget=-1"),
        (lambda: by_distance(np.array([0.0, np.nan])), r"rows \[1\] hold a NaN"),
        (lambda: by_distance(np.eye(2)), r"shape \(2, 2\)"),
        (lambda: coarse("aab", np.zeros(3)), r"are \(3,\), but there are 2 tasks"),
    ],
)
def test_what_has_no_order_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
