"""Orders of rows: of a whole pool, by chance, task or distance, and of rows that TMTA has chosen.

Source: arXiv 2406.11721, training data permutations. Those of a pool have no turns, so that every
row is of turn 1; their `budget`, 0 or above, keeps the first so many rows, None all. Those of
chosen rows set the order's effect apart from the choice's; a row keeps its turn's number.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.runtime.errors import check

Tasks = Sequence[Hashable] | np.ndarray  # each row's task, by name or by number


def random(n: int, seed: int, *, budget: int | None = None) -> Arrangement:
    """Rows 0 to n - 1 by chance (RT); PCG64, seed 0 or above.

    Raises:
        UserError: a negative seed or budget.
    """
    return _first(_generator(seed).permutation(n), budget)


def round_robin(tasks: Tasks, *, budget: int | None = None) -> Arrangement:
    """One row of each task in turn; a task that has run out is passed over.

    Args:
        tasks: N names, each row's task; tasks come in order of first appearance, rows inside a
            task by ascending index.
        budget: rows to keep.

    Raises:
        UserError: a negative budget.
    """
    numbers = number_tasks(tasks)
    together = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    rounds = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    # `together` holds tasks in their order, and a stable sort by round keeps it inside a round.
    return _first(together[np.argsort(rounds, kind="stable")], budget)


def cluster(tasks: Tasks, *, budget: int | None = None) -> Arrangement:
    """All rows of a task, then all of the next; arguments and order as in `round_robin`."""
    return _first(np.argsort(number_tasks(tasks), kind="stable"), budget)


def by_distance(
    distance: np.ndarray, *, descending: bool = False, budget: int | None = None
) -> Arrangement:
    """Fine grain: nearest row first (NFT) or, `descending`, farthest first (FFT).

    Args:
        distance: (N,) floats, each row's distance to the test set; ties go to the lower index
            either way.
        descending: farthest first.
        budget: rows to keep.

    Raises:
        UserError: a distance that is a NaN, a shape other than (N,), a negative budget.
    """
    return _first(ranked(distance, descending), budget)


def coarse(
    tasks: Tasks,
    distance: np.ndarray,
    *,
    descending: bool = False,
    budget: int | None = None,
) -> Arrangement:
    """Coarse grain: nearest task first or, `descending`, farthest first, each task kept together.

    Args:
        tasks: N names, each row's task; rows inside a task come by ascending index.
        distance: (tasks,) floats, in order of the tasks' first appearance, which breaks ties.
        descending: farthest first.
        budget: rows to keep; may cut the last task.

    Raises:
        UserError: a distance that is a NaN, another number of them than of tasks, a negative
            budget.
    """
    numbers = number_tasks(tasks)
    found = int(numbers.max(initial=-1)) + 1
    check(
        np.shape(distance) == (found,),
        f"coarse: distances are {np.shape(distance)}, but there are {found} tasks",
    )
    rank = np.argsort(ranked(distance, descending))
    return _first(np.argsort(rank[numbers], kind="stable"), budget)


def nearest_first(arrangement: Arrangement) -> Arrangement:
    """Turns forward, rows inside a turn as they stand (NFT under TMTA)."""
    return _reordered(arrangement, np.argsort(arrangement.turn, kind="stable"))


def farthest_first(arrangement: Arrangement) -> Arrangement:
    """Turns backward, rows inside a turn as they stand (FFT under TMTA).

    Not the same as `tmta(..., farthest=True)`, which chooses other rows.
    """
    return _reordered(arrangement, np.argsort(-arrangement.turn.astype(np.int64), kind="stable"))


def shuffled(arrangement: Arrangement, seed: int) -> Arrangement:
    """The same rows in random order (RT under TMTA); PCG64, seed 0 or above."""
    return _reordered(arrangement, _generator(seed).permutation(len(arrangement)))


def number_tasks(tasks: Tasks) -> np.ndarray:
    """(N,) int64: each row's task as a number from 0, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    each = (numbers.setdefault(task, len(numbers)) for task in tasks)
    return np.fromiter(each, np.int64, count=len(tasks))


def ranked(distance: np.ndarray, descending: bool = False) -> np.ndarray:
    """(N,) int64: rows by distance (N,), ties to the lower index; refuses a NaN."""
    distance = np.asarray(distance, np.float64)
    check(distance.ndim == 1, f"distance: shape {distance.shape}; it must be (N,)")
    nan = np.flatnonzero(np.isnan(distance))
    check(len(nan) == 0, f"distance: rows {nan[:3].tolist()} hold a NaN; embed them again")
    return np.argsort(-distance if descending else distance, kind="stable")


def _generator(seed: int) -> np.random.Generator:
    check(seed >= 0, f"shuffling: seed={seed}; it must not be negative")
    return np.random.Generator(np.random.PCG64(seed))


def _first(order: np.ndarray, budget: int | None) -> Arrangement:
    check(budget is None or budget >= 0, f"budget={budget}; it must not be negative")
    order = order[:budget]
    return Arrangement(order, np.ones(len(order), np.int32))


def _reordered(arrangement: Arrangement, index: np.ndarray) -> Arrangement:
    return Arrangement(arrangement.order[index], arrangement.turn[index])
