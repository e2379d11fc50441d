"""A source of a million rows in bounded memory: one pass checks all, then any row can be read."""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType

import numpy as np

from zsg_jax.data.formats import natural_instructions
from zsg_jax.data.formats.detect import LINES, RECORDS, TASKS, ReadTasks, container
from zsg_jax.data.formats.jsonl import Row
from zsg_jax.data.instance import Instance, InstancesDigest
from zsg_jax.data.schemas import AUTO, FLAG
from zsg_jax.data.schemas.checks import Refused
from zsg_jax.data.schemas.read import BadRow, open_rows, parse, read_rows
from zsg_jax.data.stored import Changed, InPlace, Recorded, Stored, Unpacked
from zsg_jax.data.texts import Texts
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.progress import say

SKIPPED_KEPT = 1000
NO_FIELDS: Mapping[str, str] = MappingProxyType({})


def open_corpus(
    path: str | Path,
    *,
    scratch: Path,
    bad_rows: str = "refuse",
    advice: str,
    format: str = AUTO,
    flag: str = FLAG,
    fields: Mapping[str, str] = NO_FIELDS,
    full_account: bool = False,
    read_tasks: ReadTasks = natural_instructions.rows,
) -> "Corpus":
    """Reads a source once, checks every row as `messages.read_messages` does, and opens it.

    A plain .jsonl file and the records of a TFDS data set are read in place; they must stay as they
    are while the corpus is open. Anything else (.gz, an array, a table, a folder, a list of Natural
    Instructions tasks, a pipe), and lines whose fields are renamed, is unpacked in the same pass
    into a file under `scratch` without a name, which is gone when the corpus is closed or killed.

    Args:
        path: as `messages.read_messages` takes it.
        scratch: a folder for what must be unpacked; made when needed.
        bad_rows: "refuse" raises at the first bad row, "skip" leaves bad rows out.
        advice: the way out that a refusal tells, as "pass --bad-rows=skip to go on without …".
        format: the kind of its rows, a name from `kinds.KINDS`, or "auto", which tells it by the
            first rows and says it.
        flag: what a user gives `format` by.
        fields: new names of fields and their old ones, as `fields.parse_fields` reads them.
        full_account: whether the ids, and all rows that are left out, stay in memory too.
        read_tasks: reads a list of Natural Instructions tasks.

    Raises:
        UserError: as `messages.read_messages` does, and if `scratch` cannot hold the rows.
    """
    path = Path(path)
    held = container(path)
    stored: Stored
    if held == RECORDS:
        stored = Recorded(path, fields)
    elif held == LINES and path.is_file() and path.suffix != ".gz" and not fields:
        stored = InPlace(path)
    else:
        stored = Unpacked(path, Path(scratch))
    corpus = Corpus(path, stored, None if full_account else SKIPPED_KEPT)
    try:
        corpus.kind, rows = open_rows(path, format, flag, read_tasks, fields)
        if format == AUTO and held != TASKS:
            say(f"{path}: read as rows of {corpus.kind}")
        accepted = read_rows(
            path, corpus.kind, rows, bad_rows=bad_rows, advice=advice, on_skipped=corpus._skip
        )
        corpus._take(accepted, full_account)
    except BaseException:
        corpus.close()
        raise
    return corpus


class Corpus:
    """The rows of a source, by number from 0; some 30 bytes a row stay in memory.

    Attributes:
        path: the source.
        kind: what kind of rows they are, a name from `kinds.KINDS`.
        tasks: names of the tasks, in the order they first come in.
        task: (N,) int32 index into `tasks` of each row.
        number: (N,) int64 line of each row, from 1; or the row's number in its array, table or
            task. Of a folder's files each counts from 1.
        ids: of each row, if they were to be kept.
        digest: what `instance.instances_digest` gives for all instances.
        skipped: the first 1,000 rows that were left out, or all if they were to be kept.
        skipped_count: how many were left out.
    """

    def __init__(self, path: Path, stored: Stored, skipped_kept: int | None) -> None:
        """For `open_corpus`, which also scans."""
        self.path = path
        self.kind = ""
        self.ids: list[str] = []
        self.tasks: list[str] = []
        self.task = np.empty(0, np.int32)
        self.digest = ""
        self.skipped: list[BadRow] = []
        self.skipped_count = 0
        self._stored = stored
        self._skipped_kept = skipped_kept
        self._starts = self._sizes = self.number = np.empty(0, np.int64)
        # Of every file: its name, and whether it is a table.
        self._files: list[tuple[str, bool]] = []
        self._of_file = np.empty(0, np.int32)

    def _take(self, accepted: Iterator[tuple[Row, Instance]], full_account: bool) -> None:
        starts, sizes, numbers = array("q"), array("q"), array("q")
        task, file = array("i"), array("i")
        task_number: dict[str, int] = {}
        digest = InstancesDigest()
        for row, instance in accepted:
            start, size = self._stored.take(row)
            starts.append(start)
            sizes.append(size)
            numbers.append(row.number)
            if not self._files or self._files[-1] != (row.path.name, row.cells):
                self._files.append((row.path.name, row.cells))
            file.append(len(self._files) - 1)
            task.append(task_number.setdefault(instance.task, len(task_number)))
            if full_account:
                self.ids.append(instance.id)
            digest.update(instance)
        try:
            self._stored.seal()
        except Changed:
            raise self._changed() from None
        self.tasks = list(task_number)
        self.task, self._of_file = (np.frombuffer(column, np.int32) for column in (task, file))
        self.digest = digest.hexdigest()
        self._starts, self._sizes, self.number = (
            np.frombuffer(column, np.int64) for column in (starts, sizes, numbers)
        )

    def _skip(self, row: BadRow) -> None:
        self.skipped_count += 1
        if self._skipped_kept is None or len(self.skipped) < self._skipped_kept:
            self.skipped.append(row)

    def __len__(self) -> int:
        return len(self.task)

    def raw(self, row: int) -> bytes:
        """The JSON object of a row: byte for byte as it stands in the source, if it stands there.

        Of a JSON array, line breaks between its parts are spaces; of tables and records it is made.

        Raises:
            UserError: if the file has changed since it was opened.
            IndexError: if there is no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        try:
            return self._stored.read(int(self._starts[row]), int(self._sizes[row]))
        except Changed:
            raise self._changed() from None

    def instance(self, row: int) -> Instance:
        """The instance of a row; raises as `raw` does."""
        raw = self.raw(row)
        name, cells = self._files[self._of_file[row]]
        try:
            return parse(raw, f"{name}:{self.number[row]}", self.kind, cells)
        except Refused:
            raise self._changed() from None

    def instances(self, rows: Iterable[int] | None = None) -> Iterator[Instance]:
        """The instances of `rows`, or of all, one at a time."""
        return (self.instance(row) for row in (range(len(self)) if rows is None else rows))

    def texts(self, rows: Sequence[int] | np.ndarray | None = None) -> Texts:
        """The texts of `rows`, or of all, read as they are asked for."""
        return Texts(self, range(len(self)) if rows is None else rows)

    def close(self) -> None:
        """Lets go of the file; what was unpacked is gone."""
        self._stored.close()

    def __enter__(self) -> "Corpus":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _changed(self) -> UserError:
        return UserError(
            f"{self.path}: changed while it was in use; leave it alone and start again"
        )
