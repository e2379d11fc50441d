"""Rows of a source as a sequence of instances that holds none of them, only ids and tasks."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from zsg_jax.data.dataset import Corpus
from zsg_jax.data.instance import Instance, instances_digest
from zsg_jax.data.joined import Joined
from zsg_jax.data.texts import Reader, Texts


class Instances(Sequence[Instance]):
    """n rows of a source; an instance is read, and made, each time it is asked for.

    Attributes:
        rows: (n,) int64, their numbers in the source.
        ids: of each row.
        tasks: names of tasks; not all need stand in these rows.
        task: (n,) int32 index into `tasks` of each row.
    """

    def __init__(
        self,
        reader: Reader,
        rows: np.ndarray,
        ids: list[str],
        tasks: list[str],
        task: np.ndarray,
        digest: str = "",
    ) -> None:
        self._reader = reader
        self.rows, self.ids, self.tasks, self.task = rows, ids, tasks, task
        self._digest = digest

    @property
    def digest(self) -> str:
        """What `instances_digest` gives for these rows."""
        if not self._digest:
            self._digest = instances_digest(self)
        return self._digest

    @property
    def task_names(self) -> list[str]:
        """The task of each row."""
        return [self.tasks[number] for number in self.task]

    @property
    def texts(self) -> Texts:
        """`Instance.text` of each row, read as it is asked for."""
        return Texts(self._reader, self.rows)

    def select(self, rows: np.ndarray) -> "Instances":
        """The given ones of these rows, (k,) int64, in the given order."""
        ids = [self.ids[row] for row in rows]
        return Instances(self._reader, self.rows[rows], ids, self.tasks, self.task[rows])

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Instance: ...
    @overload
    def __getitem__(self, index: slice) -> list[Instance]: ...
    def __getitem__(self, index: int | slice) -> Instance | list[Instance]:
        if isinstance(index, slice):
            return [self._reader.instance(int(row)) for row in self.rows[index]]
        return self._reader.instance(int(self.rows[index]))

    def __iter__(self) -> Iterator[Instance]:
        return (self._reader.instance(int(row)) for row in self.rows)


class _Listed:
    """Instances that are in memory anyway."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._instances = instances

    def instance(self, row: int) -> Instance:
        return self._instances[row]


def of_corpus(corpus: Corpus | Joined) -> Instances:
    """All rows of a corpus opened with `full_account`, which must stay open while they are read."""
    rows = np.arange(len(corpus))
    return Instances(corpus, rows, corpus.ids, corpus.tasks, corpus.task, corpus.digest)


def of_list(instances: Sequence[Instance]) -> Instances:
    """Instances that are in memory, as the others are used; `Instances` are given back."""
    if isinstance(instances, Instances):
        return instances
    number: dict[str, int] = {}
    task = [number.setdefault(one.task, len(number)) for one in instances]
    return Instances(
        _Listed(instances),
        np.arange(len(instances)),
        [one.id for one in instances],
        list(number),
        np.asarray(task, np.int32),
    )
