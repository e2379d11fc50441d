"""A dataset: a sequence of instances, each read when it is asked for, so that a million fit."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from zsg_jax.data.instance import TOOLS, Instance, instances_digest
from zsg_jax.data.mixture import TargetSet
from zsg_jax.data.schemas.read import BadRow

Indices = Sequence[int] | np.ndarray


class Part(NamedTuple):
    """Examples of one source: how one is read by its index there.

    Attributes:
        schema: of the records that `raw` gives, a name from `SCHEMAS`.
        numbers: (N,) int64 line of each record, from 1, or its number in its array, table or task.
            Of a folder's files each counts from 1.
        raw, instance: give the record, and the instance, of an index.
        close: lets go of files.
        prefix: what ids begin with in a mixture, or "".
        location: gives where the record of an index stands, for messages; None: nowhere.
        own: gives it as its source has it; None: `raw` does.
    """

    schema: str
    numbers: np.ndarray
    raw: Callable[[int], bytes]
    instance: Callable[[int], Instance]
    close: Callable[[], None]
    prefix: str = ""
    location: Callable[[int], str] | None = None
    own: Callable[[int], bytes] | None = None


@dataclasses.dataclass(eq=False, repr=False)
class Dataset(Sequence[Instance]):
    """N examples of one or several sources; some 40 bytes of each are in memory.

    An integer gives an instance, a slice or `select` a dataset over the same sources.

    Attributes:
        path: what the user named.
        parts: what is read.
        part_of: (N,) int32, which of `parts` each example is in.
        within: (N,) int64, its index there.
        tasks: names of tasks; of a selection not all need stand in it.
        task_index: (N,) int32 index into `tasks` of each example.
        skipped: records that were left out when the sources were read, or the first 1,000.
        skipped_count: how many were left out.
        no_answer: (N,) bool, whether each example has none; None: all have one.
        known_ids, known_digest: `ids` and `digest`, where they need not be read.
        sets: the sets that test examples stand in, where a mixture has told any.
        set_index: (N,) int32 index into `sets` of each example, where there are some.
        conversation: (N,) int64, which one each example is an answer of; None: each is one.
    """

    path: Path
    parts: Sequence[Part]
    part_of: np.ndarray
    within: np.ndarray
    tasks: Sequence[str]
    task_index: np.ndarray
    skipped: Sequence[BadRow] = ()
    skipped_count: int = 0
    no_answer: np.ndarray | None = None
    known_ids: list[str] | None = None
    known_digest: str = ""
    sets: Sequence[TargetSet] = ()
    set_index: np.ndarray | None = None
    conversation: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.within)

    @overload
    def __getitem__(self, index: int) -> Instance: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...
    def __getitem__(self, index: int | slice) -> "Instance | Dataset":
        """Raises UserError if a source has changed since it was opened."""
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        part = self.parts[self.part_of[index]]
        instance = part.instance(int(self.within[index]))
        if not part.prefix:
            return instance
        return dataclasses.replace(instance, id=part.prefix + instance.id)

    def select(self, indices: Indices) -> "Dataset":
        """The examples of (n,) indices, in that order."""
        chosen = np.asarray(indices, np.int64)
        ids = self.known_ids

        def its(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[chosen]

        return dataclasses.replace(
            self,
            part_of=self.part_of[chosen],
            within=self.within[chosen],
            task_index=self.task_index[chosen],
            known_ids=None if ids is None else [ids[one] for one in chosen],
            no_answer=its(self.no_answer),
            known_digest="",
            set_index=its(self.set_index),
            conversation=its(self.conversation),
        )

    @cached_property
    def ids(self) -> list[str]:
        """Of each example; read from the sources unless they were kept."""
        return [one.id for one in self] if self.known_ids is None else self.known_ids

    @cached_property
    def digest(self) -> str:
        """What `instance.instances_digest` gives for these examples."""
        return self.known_digest or instances_digest(self)

    @property
    def unanswered(self) -> int:
        """How many examples have no answer."""
        return 0 if self.no_answer is None else int(self.no_answer.sum())

    @property
    def task_names(self) -> list[str]:
        """The task of each example."""
        return [self.tasks[index] for index in self.task_index]

    @property
    def texts(self) -> "Texts":
        """`Instance.text` of each example, read when it is asked for."""
        return Texts(self)

    @property
    def numbers(self) -> np.ndarray:
        """(N,) int64, as in `Part`."""
        numbers = np.empty(len(self), np.int64)
        for number, part in enumerate(self.parts):
            own = self.part_of == number
            numbers[own] = part.numbers[self.within[own]]
        return numbers

    @cached_property
    def schema(self) -> str:
        """Of the records that `raw` gives: the sources', or "messages" where theirs differ."""
        schemas = {part.schema for part in self.parts}
        return schemas.pop() if len(schemas) == 1 else "messages"

    def raw(self, index: int) -> bytes:
        """The JSON object of an example: byte for byte as it stands in its source, if it does.

        Of a JSON array, line breaks between its parts are spaces; of tables and TFDS it is made. Of
        a mixture it has the new id, and where the schemas of its sources differ, it is a `messages`
        record with what the instance has and no more.

        Raises:
            UserError: if the source has changed since it was opened.
        """
        part, within = self.parts[self.part_of[index]], int(self.within[index])
        if part.schema != self.schema:
            return as_record(self[index])
        if not part.prefix:
            return part.raw(within)
        renamed = json.loads(part.raw(within)) | {"id": self[index].id}
        return json.dumps(renamed, ensure_ascii=False).encode()

    def own(self, index: int) -> bytes:
        """The JSON object of an example as its source has it, in a mixture too; raises as `raw`."""
        part = self.parts[self.part_of[index]]
        return (part.own or part.raw)(int(self.within[index]))

    def location(self, index: int) -> str:
        """Where an example stands, for messages: FILE:LINE, or its id where it is in no file."""
        part = self.parts[self.part_of[index]]
        return part.location(int(self.within[index])) if part.location else self[index].id

    def close(self) -> None:
        """Closes the sources, of this dataset and of all selections of it."""
        for part in self.parts:
            part.close()

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Texts(Sequence[str]):
    """The texts of a dataset; a slice gives a list.

    `view` makes each of an example; without it they are `Instance.text`. `prefix` stands before.
    """

    def __init__(
        self, dataset: Dataset, view: Callable[[Instance], str] | None = None, prefix: str = ""
    ) -> None:
        self._dataset, self._view, self._prefix = dataset, view, prefix

    def __len__(self) -> int:
        return len(self._dataset)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        instance = self._dataset[index]
        return self._prefix + (self._view(instance) if self._view else instance.text)


def from_list(instances: Sequence[Instance]) -> Dataset:
    """Instances that are in memory; a dataset is given back as it is."""
    if isinstance(instances, Dataset):
        return instances
    count = len(instances)
    tasks: dict[str, int] = {}
    task_index = [tasks.setdefault(one.task, len(tasks)) for one in instances]
    part = Part(
        "messages",
        np.arange(1, count + 1),
        lambda index: as_record(instances[index]),
        instances.__getitem__,
        lambda: None,
    )
    return Dataset(
        Path(),
        [part],
        np.zeros(count, np.int32),
        np.arange(count),
        list(tasks),
        np.array(task_index, np.int32),
        no_answer=np.array([not one.answered for one in instances], bool),
        known_ids=[one.id for one in instances],
    )


def join(
    path: Path, datasets: Mapping[str, Dataset], source: np.ndarray, index: np.ndarray
) -> Dataset:
    """Examples of several datasets in an order of their own; closing it closes them.

    Args:
        path: what the user named.
        datasets: by name; an id becomes "NAME/ID", so that no two share one. A task of two datasets
            is one task, and one none of whose examples is chosen is none.
        source: (n,) int32, the number of the dataset of each example.
        index: (n,) int64, its index there.
    """
    part_of, within = np.empty(len(index), np.int32), np.empty(len(index), np.int64)
    task_index, no_answer = np.empty(len(index), np.int32), np.zeros(len(index), bool)
    parts: list[Part] = []
    tasks: dict[str, int] = {}
    ids: list[str] | None = [""] * len(index)
    for number, (name, dataset) in enumerate(datasets.items()):
        own = np.flatnonzero(source == number)
        chosen = dataset.select(index[own])
        part_of[own], within[own] = chosen.part_of + len(parts), chosen.within
        new = np.empty(len(dataset.tasks), np.int32)
        for old in np.unique(chosen.task_index):
            new[old] = tasks.setdefault(dataset.tasks[old], len(tasks))
        task_index[own] = new[chosen.task_index]
        no_answer[own] = False if chosen.no_answer is None else chosen.no_answer
        parts += [one._replace(prefix=f"{name}/{one.prefix}") for one in dataset.parts]
        if ids is None or chosen.known_ids is None:
            ids = None
            continue
        for at, identity in zip(own, chosen.known_ids, strict=True):
            ids[at] = f"{name}/{identity}"
    return Dataset(
        path,
        parts,
        part_of,
        within,
        list(tasks),
        task_index,
        [record for one in datasets.values() for record in one.skipped],
        sum(one.skipped_count for one in datasets.values()),
        no_answer,
        ids,
    )


def as_record(instance: Instance) -> bytes:
    """An instance as a JSON object of the schema "messages"."""
    turns = instance.turns
    unlearned = {"weight": 0}
    fields: dict[str, Any] = {
        "id": instance.id,
        "task": instance.task,
        "messages": [
            one.message | ({} if one.learned else unlearned) for one in turns if one.role != TOOLS
        ],
        "references": instance.references,
    }
    if turns[0].role == TOOLS:
        fields["tools"] = json.loads(turns[0].content)
    for name in ("choices", "category"):
        if value := getattr(instance, name):
            fields[name] = value
    return json.dumps(fields, ensure_ascii=False).encode()
