"""Parts of a pool or of TMTA's turns, to be trained on alone (arXiv 2406.11721)."""

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.permutations import random, rank_in_task
from zsg_jax.runtime.errors import check


def polar(distance: np.ndarray, tasks: np.ndarray, n: int) -> np.ndarray:
    """The nearest and the farthest examples of each task, n/2 of either.

    Args:
        distance: (N,) floats, each example's distance to the test set; ties go to the lower index.
        tasks: (N,) int64, each example's task as a number from 0.
        n: examples of a task, at least 1; of an odd number one more is near than far. A task with
            no more examples than this gives all of them.

    Returns:
        (n,) int64 indices, task after task, each by ascending distance.
    """
    order, rank = _by_task(distance, tasks)
    size = np.bincount(tasks)[tasks[order]]
    return order[(rank < n - n // 2) | (rank >= size - n // 2)]


def uniform(distance: np.ndarray, tasks: np.ndarray, k: int) -> np.ndarray:
    """Every k-th example of each task by distance, its nearest included; else as `polar`."""
    order, rank = _by_task(distance, tasks)
    return order[rank % k == 0]


def of_tasks(tasks: np.ndarray, n: int, budget: int | None, seed: int) -> np.ndarray:
    """As many examples of each of n tasks that are drawn, and no others, shuffled.

    How many tasks does it take? So the budget is the same whatever n is, no example is met twice,
    and tasks that hold too few are not drawn. The order is that of `permutations.random` without
    the examples that are left out.

    Args:
        tasks: (N,) int64, each example's task as a number from 0.
        n: tasks, at least 1.
        budget: examples in all; where n does not divide it, some tasks give one more. None: all
            examples of n tasks, whose sizes may differ.
        seed: of the tasks and the order; PCG64.

    Returns:
        (budget,) int64 indices.

    Raises:
        UserError: fewer than n tasks hold their share.
    """
    order = random(len(tasks), seed)
    size = np.bincount(tasks)
    least = 1 if budget is None else -(-budget // n)
    drawn = np.random.Generator(np.random.PCG64([seed, 1])).permutation(len(size))
    drawn = drawn[size[drawn] >= least][:n]
    shares = f", {least:,} rows of each" if budget is not None else ""
    check(
        len(drawn) == n,
        f"{n:,} tasks{shares}: of {len(size):,} tasks only {len(drawn):,} hold so many; ask for "
        "fewer tasks, or for another budget",
    )
    check(
        budget is None or budget >= n,
        f"{n:,} tasks have no room in a budget of {budget or 0:,} rows; ask for fewer tasks",
    )
    share = np.zeros(len(size), np.int64)
    share[drawn] = len(tasks) if budget is None else budget // n
    share[drawn[: 0 if budget is None else budget % n]] += 1
    together = np.argsort(tasks[order], kind="stable")
    rank = np.empty(len(tasks), np.int64)
    rank[together] = rank_in_task(tasks[order][together])
    return order[rank < share[tasks[order]]]


def turn_range(arrangement: Arrangement, a: int, b: int) -> Arrangement:
    """The examples of turns [a, b), counted from 1, as they stand and with their turns' numbers.

    The study counts turns from 0: its [5, 10) is [6, 11) here.
    """
    inside = (arrangement.turn >= a) & (arrangement.turn < b)
    return Arrangement(arrangement.order[inside], arrangement.turn[inside])


def halves(first: Arrangement, second: Arrangement, n: int) -> Arrangement:
    """Half of n examples from the start of one arrangement, half from that of another backward.

    With TMTA's `min` and `max`, in this order, it is the study's `min-max` (15,000 of either); the
    other way round its `max-min`. Either half keeps its last turn whole, so that there may be more
    than n examples; those of the second half that are in the first already are dropped.

    Args:
        first: gives its first turns, until there are at least ⌈n/2⌉ examples.
        second: gives its first turns, until there are at least ⌊n/2⌋, the last example first.
        n: at least 0.

    Returns:
        The examples; turns of the second half are counted on from the last of the first half.
    """
    near, far = first_half(first, n), _whole_turns(second, n // 2)
    new = ~np.isin(far.order, near.order)
    turn = far.turn[new].astype(np.int64) + near.turn.max(initial=0)
    return Arrangement(
        np.concatenate([near.order, far.order[new][::-1]]),
        np.concatenate([near.turn, turn[::-1]]),
    )


def first_half(first: Arrangement, n: int) -> Arrangement:
    """What `halves` of n examples has of its first arrangement."""
    return _whole_turns(first, n - n // 2)


def _whole_turns(arrangement: Arrangement, n: int) -> Arrangement:
    """The first turns of ascending ones, until they hold n examples."""
    check(n >= 0, f"halves of {n} examples: there must be none or more")
    last = arrangement.turn[min(n, len(arrangement)) - 1] if n and len(arrangement) else 0
    return turn_range(arrangement, 1, int(last) + 1)


def _by_task(distance: np.ndarray, tasks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64 each: indices by task and then by distance, and the rank of each in its task."""
    order = np.lexsort((distance, tasks))
    return order, rank_in_task(tasks[order])
