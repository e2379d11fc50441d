"""A dataset: a sequence of instances, each read when it is asked for, so that a million fit."""

import dataclasses
import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from zsg_jax.data.formats import natural_instructions
from zsg_jax.data.formats.jsonl import MAX_ROW_BYTES
from zsg_jax.data.formats.registry import TASKS, detect
from zsg_jax.data.instance import TOOLS, Instance, InstancesDigest, instances_digest
from zsg_jax.data.mixture import TargetSet
from zsg_jax.data.schemas.read import BadRow, check_records, open_records
from zsg_jax.data.schemas.registry import AUTO
from zsg_jax.data.storage import Storage
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.runtime.progress import say

SKIPPED_KEPT = 1000
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
        unanswered: how many of the sources' examples have no answer.
        known_ids, known_digest: `ids` and `digest`, where they need not be read.
        sets: the sets that test examples stand in, where a mixture has told any.
        set_index: (N,) int32 index into `sets` of each example, where there are some.
    """

    path: Path
    parts: Sequence[Part]
    part_of: np.ndarray
    within: np.ndarray
    tasks: Sequence[str]
    task_index: np.ndarray
    skipped: Sequence[BadRow] = ()
    skipped_count: int = 0
    unanswered: int = 0
    known_ids: list[str] | None = None
    known_digest: str = ""
    sets: Sequence[TargetSet] = ()
    set_index: np.ndarray | None = None

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
        return dataclasses.replace(
            self,
            part_of=self.part_of[chosen],
            within=self.within[chosen],
            task_index=self.task_index[chosen],
            known_ids=None if ids is None else [ids[one] for one in chosen],
            known_digest="",
            set_index=None if self.set_index is None else self.set_index[chosen],
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


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How sources are read.

    Attributes:
        scratch: a folder for copies of what cannot be read in place; made when needed.
        bad_rows: "refuse" raises at the first bad record, "skip" leaves bad records out.
        format: the schema of the records, a name from `SCHEMAS`, or "auto", which tells it by
            the first of them and says it.
        fields: new names of fields and their old ones, as `fields.parse_fields` reads them.
        instructions, tokenizer: for lists of Natural Instructions tasks, as
            `natural_instructions.records` takes them.
        keep_all: whether ids, and all skipped records, stay in memory.
        answers: whether every record must hold an answer, to be learned or scored.
        max_row_bytes: bytes that a row may take as JSON.
    """

    scratch: Path
    bad_rows: str = "refuse"
    format: str = AUTO
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    instructions: natural_instructions.Options = natural_instructions.WHOLE
    tokenizer: Tokenizer | None = None
    keep_all: bool = False
    answers: bool = True
    max_row_bytes: int = MAX_ROW_BYTES


def open_dataset(path: str | Path, options: ReadOptions, side: str = "train") -> Dataset:
    """Reads a source once, checks every record, and opens it.

    `id` (string or integer, default `FILE:LINE`) must be unique in the source; `task` defaults to
    "(no task)". `references`, a list of strings, holds further accepted answers; `choices`, or
    `answer_choices`, what the answer is chosen from. Turns come as the schema has them: an optional
    system turn, then user and assistant by turns, ending with the assistant. Other fields are left
    alone; blank lines are no records. Prompts alone, preferences and plain texts are read too,
    where `options.answers` asks for no answer.

    Args:
        path: JSON lines or a JSON array (.json), either as gzip if its name ends in .gz; .parquet,
            .arrow; the folder of a data set of `datasets`, or of files of these; a list of Natural
            Instructions tasks (.txt); "hub:OWNER/NAME[:SPLIT]"; "rewrites:KEY=VALUE,…", as
            `rewriting.address` reads it; or a data set of TFDS, by folder or name, as
            `tfds.address` reads it.
        options: how it is read.
        side: "train" or "test", as `natural_instructions.records` takes it.

    Raises:
        UserError: with file, line and reason; for a missing, unreadable or empty source, one that
            changes meanwhile, and a scratch folder that cannot hold the records.
    """
    path = Path(path)
    storage = Storage(path, options.scratch, options.fields)
    try:
        return _scan(path, storage, options, side)
    except BaseException:
        storage.close()
        raise


def _scan(path: Path, storage: Storage, options: ReadOptions, side: str) -> Dataset:
    read_tasks = partial(
        natural_instructions.records,
        options=options.instructions,
        side=side,
        tokenizer=options.tokenizer,
    )
    schema, found = open_records(
        path, options.format, read_tasks, options.fields, options.max_row_bytes
    )
    if options.format == AUTO and detect(path) != TASKS:
        here = path.is_relative_to(options.scratch)  # rows that were in memory
        say(f"{side if here else path}: read as rows of {schema}")
    skipped: list[BadRow] = []
    skipped_count = 0

    def skip(record: BadRow) -> None:
        nonlocal skipped_count
        skipped_count += 1
        if options.keep_all or len(skipped) < SKIPPED_KEPT:
            skipped.append(record)

    tasks: dict[str, int] = {}
    unanswered = 0
    task_index, ids, digest = array("i"), list[str](), InstancesDigest()
    for record, instance in check_records(
        path, schema, found, bad_rows=options.bad_rows, on_skipped=skip, answers=options.answers
    ):
        unanswered += not instance.answered
        storage.add(record)
        task_index.append(tasks.setdefault(instance.task, len(tasks)))
        digest.update(instance)
        if options.keep_all:
            ids.append(instance.id)
    storage.seal()
    instance_of = partial(storage.instance, schema=schema)
    return Dataset(
        path,
        [
            Part(
                schema,
                storage.numbers,
                storage.raw,
                instance_of,
                storage.close,
                location=storage.location,
            )
        ],
        np.broadcast_to(np.int32(0), len(task_index)),
        np.arange(len(task_index)),
        list(tasks),
        np.frombuffer(task_index, np.int32),
        skipped,
        skipped_count,
        unanswered,
        ids if options.keep_all else None,
        digest.hexdigest(),
    )


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
        unanswered=sum(not one.answered for one in instances),
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
    task_index = np.empty(len(index), np.int32)
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
        sum(one.unanswered for one in datasets.values()),
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
