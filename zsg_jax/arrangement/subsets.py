"""Parts of a pool or of TMTA's turns, to be trained on alone (arXiv 2406.11721).

Subsets of a pool come by ascending row and are of turn 1; `orders.shuffled` mixes them.
"""

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.permutations import Tasks, number_tasks, ranked
from zsg_jax.runtime.errors import check


def polar(distance: np.ndarray, tasks: Tasks, n: int) -> Arrangement:
    """The nearest and the farthest rows of each task, n/2 of either.

    Args:
        distance: (N,) floats, each row's distance to the test set; ties go to the lower index.
        tasks: N names, each row's task.
        n: rows of a task, at least 1; of an odd number one more is near than far. A task with no
            more rows than this gives all of them.

    Raises:
        UserError: a NaN, lengths that differ, n below 1.
    """
    check(n >= 1, f"polar: n={n}; it must be at least 1")
    rows, rank, size = _ranks(distance, tasks)
    return _chosen(rows[(rank < n - n // 2) | (rank >= size - n // 2)])


def uniform(distance: np.ndarray, tasks: Tasks, k: int) -> Arrangement:
    """Every k-th row of each task by rank of distance, the nearest one included.

    Args:
        distance, tasks: as `polar` takes them.
        k: 1 takes all rows, 2 every other one.

    Raises:
        UserError: a NaN, lengths that differ, k below 1.
    """
    check(k >= 1, f"uniform: k={k}; it must be at least 1")
    rows, rank, _ = _ranks(distance, tasks)
    return _chosen(rows[rank % k == 0])


def turn_range(arrangement: Arrangement, a: int, b: int) -> Arrangement:
    """The rows of turns [a, b), counted from 1, as they stand and with their turns' numbers.

    The study counts turns from 0: its [5, 10) is [6, 11) here.

    Raises:
        UserError: unless 1 ≤ a < b; or no row is of these turns.
    """
    check(1 <= a < b, f"turns {a} to {b}: the first must be at least 1 and the end above it")
    inside = (arrangement.turn >= a) & (arrangement.turn < b)
    check(
        bool(inside.any()),
        f"no row is of the turns {a} to {b - 1}: there are {len(arrangement.turn_sizes)} turns",
    )
    return Arrangement(arrangement.order[inside], arrangement.turn[inside])


def halves(first: Arrangement, second: Arrangement, rows: int) -> Arrangement:
    """Half the rows from the start of one arrangement, half from that of another backward.

    With TMTA's `min` and `max`, in this order, it is the study's `min-max` (15,000 rows of either);
    the other way round its `max-min`. Halves are counted in rows: a turn may be cut.

    Args:
        first: gives its first ⌈rows/2⌉ rows.
        second: gives its first ⌊rows/2⌋, last one first; those that are in the first half already
            are dropped, so that fewer than `rows` may remain.
        rows: at least 0.

    Returns:
        The rows; turns of the second half are counted on from the last one of the first half.

    Raises:
        UserError: a negative number of rows.
    """
    check(rows >= 0, f"halves: rows={rows}; it must not be negative")
    near, near_turn = first.order[: rows - rows // 2], first.turn[: rows - rows // 2]
    far, far_turn = second.order[: rows // 2][::-1], second.turn[: rows // 2][::-1]
    new = ~np.isin(far, near)
    far_turn = far_turn.astype(np.int64) + near_turn.max(initial=0)
    return Arrangement(np.concatenate([near, far[new]]), np.concatenate([near_turn, far_turn[new]]))


def _ranks(distance: np.ndarray, tasks: Tasks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, the rank of each in its task from 0, and its task's size; each (N,) int64."""
    near_to_far = ranked(distance)
    check(
        len(tasks) == len(near_to_far),
        f"{len(near_to_far)} distances and {len(tasks)} tasks; each row needs one of either",
    )
    numbers = number_tasks(tasks)
    rows = near_to_far[np.argsort(numbers[near_to_far], kind="stable")]
    counts = np.bincount(numbers)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, rank, np.repeat(counts, counts)


def _chosen(rows: np.ndarray) -> Arrangement:
    return Arrangement(np.sort(rows), np.ones(len(rows), np.int32))
