"""Orders of a whole pool, by chance, task or distance, and of the examples that TMTA has chosen.

Source: arXiv 2406.11721, training data permutations. Tasks are numbered from 0 by first appearance;
orders are (N,) int64 indices of examples. Farthest first is nearest first backward, example by
example, as in the study's code, so that of equally distant ones the higher index then comes first.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.runtime.errors import check

Tasks = Sequence[Hashable] | np.ndarray  # each example's task, by name or by number


def generator(seed: int) -> np.random.Generator:
    """What every shuffle draws from: PCG64, seed 0 or above."""
    check(seed >= 0, f"shuffling: seed={seed}; it must not be negative")
    return np.random.Generator(np.random.PCG64(seed))


def random(n: int, seed: int) -> np.ndarray:
    """0 to n - 1 by chance (RT), drawn from `generator`."""
    return generator(seed).permutation(n)


def round_robin(tasks: np.ndarray) -> np.ndarray:
    """One example of each task in turn, by ascending index; an empty task is passed over."""
    together = cluster(tasks)
    # `together` holds tasks in their order, and a stable sort by round keeps it inside a round.
    return together[np.argsort(rank_in_task(tasks[together]), kind="stable")]


def cluster(tasks: np.ndarray) -> np.ndarray:
    """All examples of a task by ascending index, then all of the next."""
    return np.argsort(tasks, kind="stable")


def by_distance(distance: np.ndarray) -> np.ndarray:
    """Fine grain, nearest first (NFT): by ascending distance (N,), ties to the lower index."""
    return np.argsort(distance, kind="stable")


def coarse(tasks: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Coarse grain: the task of least distance (tasks,) first, each task kept together."""
    return np.argsort(np.argsort(by_distance(distance))[tasks], kind="stable")


def backward(arrangement: Arrangement) -> Arrangement:
    """The last example first: turns backward and a turn's examples backward (FFT under TMTA).

    Not the same as `tmta(..., farthest=True)`, which chooses other examples.
    """
    return Arrangement(arrangement.order[::-1], arrangement.turn[::-1])


def shuffled(arrangement: Arrangement, seed: int) -> Arrangement:
    """The same examples by chance (RT under TMTA); PCG64, seed 0 or above."""
    index = random(len(arrangement), seed)
    return Arrangement(arrangement.order[index], arrangement.turn[index])


def number_tasks(tasks: Tasks) -> np.ndarray:
    """(N,) int64: each example's task as a number from 0, in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    each = (numbers.setdefault(task, len(numbers)) for task in tasks)
    return np.fromiter(each, np.int64, count=len(tasks))


def rank_in_task(tasks: np.ndarray) -> np.ndarray:
    """(N,) int64: how many of an example's task stand before it, where tasks come together."""
    counts = np.bincount(tasks)
    first = np.cumsum(counts) - counts
    return np.arange(len(tasks)) - first[tasks]
