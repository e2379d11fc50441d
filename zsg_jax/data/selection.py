"""Which rows of each side a study uses: of the tasks a split gives it, at most so many each."""

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np

from zsg_jax.data.sampling import sample
from zsg_jax.data.splits import choose_split
from zsg_jax.runtime.progress import count, say


class Source(Protocol):
    """What is asked of a source here: of N rows their tasks and ids."""

    @property
    def tasks(self) -> Sequence[str]:
        """Names of the tasks."""

    @property
    def task(self) -> np.ndarray:
        """(N,) int32 index into `tasks` of each row."""

    @property
    def ids(self) -> Sequence[str]:
        """Of each row."""


def select(
    tasks: Sequence[str],
    task: np.ndarray,
    ids: Sequence[str],
    *,
    keep: Collection[str] | None = None,
    per_task: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """The rows of some tasks, of each at most so many, drawn by seed.

    What is drawn of a task hangs on the seed, the task's name and its rows' ids alone: other tasks,
    and the order of the rows, change nothing.

    Args:
        tasks: names of the tasks.
        task: (N,) int32 index into `tasks` of each row.
        ids: of each row; read only for rows of a task with more than `per_task`.
        keep: the tasks to take rows of; None: all.
        per_task: rows at most of a task; None: all.
        seed: the draw.

    Returns:
        (n,) int64 rows, ascending.
    """
    wanted = np.array([keep is None or name in keep for name in tasks], bool)
    rows = np.flatnonzero(wanted[task])
    if per_task is None:
        return rows
    # A stable sort lays each task's rows together, without a pass over all rows for each task.
    rows = rows[np.argsort(task[rows], kind="stable")]
    starts = np.unique(task[rows], return_index=True)[1]
    drawn = [np.empty(0, np.int64)]
    for own in np.split(rows, starts[1:]):
        if len(own) > per_task:
            name = tasks[task[own[0]]]
            own = own[sample([ids[row] for row in own], per_task, seed, "row", name)]
        drawn.append(own)
    return np.sort(np.concatenate(drawn))


def select_sides(
    train: Source,
    test: Source,
    *,
    split: str = "",
    train_per_task: int | None = None,
    test_per_task: int | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both sides that a study uses.

    Args:
        train, test: the sources; with a split they may be the same file.
        split: as `splits.choose_split` takes it; "" uses every task of each side.
        train_per_task, test_per_task: rows at most of a task, drawn by seed; None: all.
        seed: every draw.

    Returns:
        Two (n,) int64 arrays of rows, ascending.

    Raises:
        UserError: as `choose_split` does.
    """
    chosen = choose_split(split, train.tasks, test.tasks, seed) if split else None
    sides = []
    for side, source, keep, most in (
        ("train", train, chosen.train if chosen else None, train_per_task),
        ("test", test, chosen.test if chosen else None, test_per_task),
    ):
        rows = select(
            source.tasks,
            source.task,
            source.ids,
            keep=keep,
            per_task=most,
            seed=seed,
        )
        if len(rows) < len(source.task):
            left = len(np.unique(source.task[rows]))
            say(
                f"{side}: {len(rows):,} of {count(len(source.task), 'row')} and {left:,} of "
                f"{count(len(source.tasks), 'task')} are used"
            )
        sides.append(rows)
    return sides[0], sides[1]
