"""Reads instances from records of any schema, and names every bad record."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.data.formats import natural_instructions
from zsg_jax.data.formats.fields import Note, refuse, rename_records
from zsg_jax.data.formats.jsonl import (
    MAX_ROW_BYTES,
    Record,
    Refused,
    json_object,
    json_type,
)
from zsg_jax.data.formats.registry import TASKS, ReadTasks, detect, records
from zsg_jax.data.formats.tables import OPTIONAL
from zsg_jax.data.instance import Instance
from zsg_jax.data.schemas.checks import answered, check_text, choices
from zsg_jax.data.schemas.registry import (
    AUTO,
    SCHEMAS,
    Schema,
    check_schema,
    recognize,
)
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import count, say
from zsg_jax.runtime.settings import setting

NO_TASK = "(no task)"
CATEGORY = ("category", "categories", "Categories")  # fields that may name a record's
SHOWN = 5  # skipped records that are named on screen


class BadRow(NamedTuple):
    """A record that was left out: `line` counts lines, rows, or the instances of a task, from 1."""

    path: str
    line: int
    reason: str


def way_out() -> str:
    """What to do about a bad row, besides mending it."""
    return f"pass {setting('data.bad_rows', 'skip')} to go on without such rows"


def each_once(*sides: Iterable[BadRow]) -> list[BadRow]:
    """The records that either side left out; of a file that both sides are read from, each once."""
    return list(dict.fromkeys(one for side in sides for one in side))


def tell_skipped(bad: Sequence[BadRow], total: int, rest: str) -> None:
    """Says the first few records that were left out, of `total`, and of the others the `rest`."""
    for one in bad[:SHOWN]:
        say(f"skipped {one.path}:{one.line}: {one.reason}")
    if total > SHOWN:
        say(f"skipped {total - SHOWN:,} more rows{rest}")


def open_records(
    path: Path,
    format: str = AUTO,
    read_tasks: ReadTasks = natural_instructions.records,
    fields: Mapping[str, str] | None = None,
    max_row_bytes: int = MAX_ROW_BYTES,
    note: Note = refuse,
) -> tuple[str, Iterator[Record]]:
    """The schema of a source, and its records, of which none is checked yet.

    Args:
        path: as `open_dataset` takes it.
        format: a schema, or "auto".
        read_tasks: reads a list of Natural Instructions tasks, whose fields have their names.
        fields: new names of fields and their old ones, as `fields.parse_fields` reads them.
        max_row_bytes: bytes that a row may take as JSON; what is longer is refused.
        note: takes the old names that the source has, and those that it has not.

    Raises:
        UserError: as `recognize` does, and for a source whose beginning cannot be read.
    """
    check_schema(format)
    if detect(path) == TASKS:
        own = f"{path}: lists tasks of Natural Instructions, which have a form of their own; leave "
        check(format in (AUTO, "messages"), f"{own}{setting('data.format')} out")
        for old in (fields or {}).values():
            note(old, f"{own}new names of fields out ({setting('data.fields')})")
        return "messages", read_tasks(path)
    found = records(path, max_row_bytes)
    if fields:
        found = rename_records(found, fields, note)
    if format != AUTO:
        return format, found
    return recognize(found)


def check_records(
    path: Path,
    schema: str,
    records: Iterator[Record],
    *,
    bad_rows: str,
    on_skipped: Callable[[BadRow], object],
    answers: bool = True,
) -> Iterator[tuple[Record, Instance]]:
    """Checks records that `open_records` gave; yields each good one and its instance.

    Args:
        bad_rows, answers: as `reading.ReadOptions` has them.
        on_skipped: takes each that is left out.

    Raises:
        UserError: for a bad record that is not to be left out, and where none is good.
    """
    if answers:
        _check_answers(path, schema)
    seen = SeenIds()
    good = bad = cut = 0
    for record in records:
        try:
            if record.refusal:
                raise Refused(record.refusal)
            fields = json_object(record.raw)
            instance = _instance(fields, f"{record.path.name}:{record.number}", SCHEMAS[schema])
            if answers:
                answered(instance.turns)
            seen.add(instance.id, record)
        except Refused as refusal:
            if bad_rows == "refuse":
                raise UserError(f"{record.location}: {refusal}; {way_out()}") from None
            on_skipped(BadRow(str(record.path), record.number, str(refusal)))
            bad += 1
            continue
        good += 1
        cut += SCHEMAS[schema].left_out(fields, instance.turns) > 0
        yield record, instance
    if not good:
        left_out = f" (all {bad:,} rows were bad)" if bad else ""
        raise UserError(f"{path}: holds no instance{left_out}; give a file with at least one row")
    if cut:
        say(
            f"{path}: {count(cut, 'row')} of {good:,} began with an answer or ended with a "
            "question; these turns are left out"
        )


def _check_answers(path: Path, schema: str) -> None:
    by = SCHEMAS[schema].answer_by
    check(
        by is None,
        f"{path}: its rows are of {schema}, which hold no one answer to learn or to score; name it "
        f"by {setting('data.fields', by)}, or give other rows (python -m zsg_jax.arrange puts "
        "these in order as they are)",
    )


class SeenIds:
    """The ids so far, as 128 bits of a digest each, and where each stood."""

    def __init__(self) -> None:
        # The file of the first record with an id and its number there, in one integer.
        self._first: dict[bytes, int] = {}
        self._files: list[Path] = []

    def add(self, identity: str, record: Record) -> None:
        """Remembers an id; raises Refused where an earlier record has it."""
        if not self._files or self._files[-1] != record.path:
            self._files.append(record.path)
        here = (len(self._files) - 1) << 48 | record.number
        digest = hashlib.blake2b(identity.encode(), digest_size=16).digest()
        first = self._first.setdefault(digest, here)
        if first == here:
            return
        path, number = self._files[first >> 48], first & (1 << 48) - 1
        if record.unit != "line":
            where = f"in {path}, {record.unit} {number}"
        else:
            where = f"on line {number}" if path == record.path else f"in {path}:{number}"
        raise Refused(f'"id" {identity!r} was already used {where}')


def parse(raw: bytes, default_id: str, schema: str = "messages") -> Instance:
    """The instance that one JSON object stands for; `default_id` is for rows without "id".

    Raises:
        Refused: with the reason, if it is none.
    """
    return _instance(json_object(raw), default_id, SCHEMAS[schema])


def _instance(record: Mapping[str, Any], default_id: str, schema: Schema) -> Instance:
    # As of tables, where null stands for what is missing.
    record = {key: one for key, one in record.items() if one is not None or key not in OPTIONAL}
    identity = record.get("id", default_id)
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    task_name, task = _task(record, schema.task)
    for name, value in (("id", identity), (task_name, task)):
        check_text(name, value)
        if "\n" in value or "\r" in value:
            raise Refused(f'"{name}" holds a line break')
    turns = schema.turns(record)
    answer = turns[-1].text if turns[-1].role == "assistant" else None
    references = _references(record.get("references", []), answer)
    found = () if answer is None else choices(record, answer)
    return Instance(identity, task, turns, references, found, _category(record))


def _task(record: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    """The field that names the task, and the name; of these only "task" must hold one.

    Raises:
        Refused: for one that is no name. In "source" may stand anything.
    """
    for name in names:
        value = record.get(name)
        if number := _whole(value):
            return name, number
        if isinstance(value, str) and (value.strip() or name == "task"):
            return name, value
        blank = name != "task" and (value in ("", None, [], {}) or value != value)
        if name in record and not (blank or isinstance(value, str) or name == "source"):
            raise Refused(
                f'"{name}" is a JSON {json_type(value)}, not a string or whole number; if it names '
                f"no task, rename it by {setting('data.fields', f'other={name}')}"
            )
    return "task", NO_TASK


def _whole(value: Any) -> str:
    """A whole number as text, a float too, as tables have them where some rows have none; or ""."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def _category(record: Mapping[str, Any]) -> str:
    """The category, or the first of several, as tasks of Natural Instructions list them."""
    for name in CATEGORY:
        given = record.get(name)
        first = given[0] if isinstance(given, list) and given else given
        if number := _whole(first):
            return number
        if isinstance(first, str) and first.strip():
            check_text(name, first)
            return first.strip()
    return ""


def _references(references: Any, answer: str | None) -> tuple[str, ...]:
    if not isinstance(references, list):
        raise Refused(f'"references" is a JSON {json_type(references)}, not a list')
    for number, reference in enumerate(references):
        check_text(f"references[{number}]", reference)
    return tuple(dict.fromkeys(references if answer is None else (answer, *references)))
