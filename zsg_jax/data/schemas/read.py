"""Reads instances from rows of any kind, one JSON object each, and names every bad row."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.data.formats import natural_instructions
from zsg_jax.data.formats.detect import TASKS, ReadTasks, container, rows
from zsg_jax.data.formats.fields import rename_rows
from zsg_jax.data.formats.jsonl import Row, SeenIds
from zsg_jax.data.instance import Instance
from zsg_jax.data.schemas import AUTO, FLAG, KINDS, Kind, check_kind, checked, recognize
from zsg_jax.data.schemas.checks import OPTIONAL, Refused, check_text, json_object, json_type
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import count, say

NO_TASK = "(no task)"
TOLD = 5  # skipped rows that are named on screen
# The way out, of a study and of a command.
ADVICE = "pass --config.data.bad_rows=skip to go on without such rows"
FLAG_ADVICE = "pass --bad-rows=skip to go on without such rows"


class BadRow(NamedTuple):
    """A row that was left out: `line` counts lines, rows, or the instances of a task, from 1."""

    path: str
    line: int
    reason: str


def tell_skipped(rows: Sequence[BadRow], total: int, rest: str) -> None:
    """Says the first few rows that were left out, of `total`, and of the others the `rest`."""
    for row in rows[:TOLD]:
        say(f"skipped {row.path}:{row.line}: {row.reason}")
    if total > TOLD:
        say(f"skipped {total - TOLD:,} more rows{rest}")


def read_messages(
    path: str | Path, bad_rows: str = "refuse", advice: str = ADVICE, format: str = AUTO
) -> tuple[list[Instance], list[BadRow]]:
    """Reads all rows of a source into memory.

    `id` (string or integer, default `FILE:LINE`) must be unique in the source; `task` defaults to
    "(no task)". `references`, a list of strings, holds further accepted answers. Turns come as the
    kind of row has them: an optional system turn, then user and assistant in turn, ending with the
    assistant. Other fields are left alone; blank lines are no rows.

    Args:
        path: JSON lines or a JSON array (.json), either as gzip if its name ends in .gz; .parquet,
            .arrow; the folder of a data set of `datasets`, or of files of these; a list of Natural
            Instructions tasks (.txt); "hub:OWNER/NAME[:SPLIT]"; or a data set of TFDS, by folder
            or name, as `records.address` reads it.
        bad_rows: "refuse" raises at the first bad row, "skip" leaves bad rows out and lists them.
        advice: the way out that a refusal tells.
        format: a name from `kinds.KINDS`, or "auto" to tell it by the first rows.

    Raises:
        UserError: with file, line and reason; also for a missing, unreadable or rowless file.
    """
    skipped: list[BadRow] = []
    kind, found = open_rows(Path(path), format)
    accepted = read_rows(
        Path(path), kind, found, bad_rows=bad_rows, advice=advice, on_skipped=skipped.append
    )
    return [instance for _, instance in accepted], skipped


def open_rows(
    path: Path,
    format: str = AUTO,
    flag: str = FLAG,
    read_tasks: ReadTasks = natural_instructions.rows,
    fields: Mapping[str, str] | None = None,
) -> tuple[str, Iterator[Row]]:
    """The kind of a source's rows, and the rows, which nobody has looked into yet.

    Args:
        path: as `read_messages` takes it.
        format: a kind, or "auto".
        flag: what a user gives `format` by.
        read_tasks: reads a list of Natural Instructions tasks, whose fields have their names.
        fields: new names of fields and their old ones, as `fields.parse_fields` reads them.

    Raises:
        UserError: as `kinds.recognize` does, and for a source whose beginning cannot be read.
    """
    check_kind(format, flag)
    if container(path) == TASKS:
        check(
            format in (AUTO, "messages") and not fields,
            f"{path}: lists tasks of Natural Instructions, which have a form of their own; leave "
            f"{flag} and new names of fields out",
        )
        return "messages", rows(path, read_tasks)
    found = rename_rows(rows(path), fields) if fields else rows(path)
    if format != AUTO:
        return format, checked(found, format, flag)
    return recognize(found, flag)


def read_rows(
    path: Path,
    kind: str,
    rows: Iterator[Row],
    *,
    bad_rows: str,
    advice: str,
    on_skipped: Callable[[BadRow], object],
) -> Iterator[tuple[Row, Instance]]:
    """Checks rows that `open_rows` gave: yields each good one as it stood, and its instance."""
    seen = SeenIds()
    good = bad = cut = 0
    for row in rows:
        try:
            if row.refusal:
                raise Refused(row.refusal)
            fields = json_object(row.raw)
            instance = _instance(fields, default_id(row), KINDS[kind], row.cells)
            first = seen.add(instance.id, row)
            if first is not None:
                where = f"on line {first[1]}"
                if row.unit != "line":
                    where = f"in {first[0]}, {row.unit} {first[1]}"
                elif first[0] != row.path:
                    where = f"in {first[0]}:{first[1]}"
                raise Refused(f'"id" {instance.id!r} was already used {where}')
        except Refused as refusal:
            if bad_rows == "refuse":
                raise UserError(f"{row.place}: {refusal}; {advice}") from None
            on_skipped(BadRow(str(row.path), row.number, str(refusal)))
            bad += 1
            continue
        good += 1
        cut += KINDS[kind].left_out(fields, instance.turns) > 0
        yield row, instance
    if not good:
        left_out = f" (all {bad:,} rows were bad)" if bad else ""
        raise UserError(f"{path}: holds no instance{left_out}; give a file with at least one row")
    if cut:
        say(
            f"{path}: {count(cut, 'row')} of {good:,} began with an answer or ended with a "
            "question; these turns are left out"
        )


def default_id(row: Row) -> str:
    """The id of a row that has none of its own."""
    return f"{row.path.name}:{row.number}"


def parse(raw: bytes, default_id: str, kind: str = "messages", cells: bool = False) -> Instance:
    """The instance that one JSON object stands for; `default_id` is for rows without "id".

    Raises:
        Refused: with the reason, if it is none.
    """
    return _instance(json_object(raw), default_id, KINDS[kind], cells)


def _instance(row: Mapping[str, Any], default_id: str, kind: Kind, cells: bool) -> Instance:
    if cells:
        row = {key: one for key, one in row.items() if one is not None or key not in OPTIONAL}
    identity = row.get("id", default_id)
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    task_name, task = _task(row, kind.task)
    for name, value in (("id", identity), (task_name, task)):
        check_text(name, value)
        if "\n" in value or "\r" in value:
            raise Refused(f'"{name}" holds a line break')
    turns = kind.turns(row)
    references = _references(row.get("references", []), turns[-1].content)
    return Instance(id=identity, task=task, turns=turns, references=references)


def _task(row: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """The field that names the task, and the name; of these only "task" must hold one."""
    for name in names:
        value = row.get(name)
        if name == "task" and name in row:
            return name, value
        if isinstance(value, str) and value.strip():
            return name, value
        if isinstance(value, int) and not isinstance(value, bool):
            return name, str(value)
    return "task", NO_TASK


def _references(references: Any, answer: str) -> tuple[str, ...]:
    if not isinstance(references, list):
        raise Refused(f'"references" is a JSON {json_type(references)}, not a list')
    for number, reference in enumerate(references):
        check_text(f"references[{number}]", reference)
    return tuple(dict.fromkeys((answer, *references)))
