"""Reads instances from `messages` JSONL files, plain or gzip, and names every bad row."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.errors import UserError
from zsg_jax.progress import bar

NO_TASK = "(no task)"


class BadRow(NamedTuple):
    """A row that was left out: `line` counts from 1."""

    path: str
    line: int
    reason: str


class _Refused(Exception):
    """Why one row is no instance."""


def read_messages(
    path: str | Path, bad_rows: str = "refuse"
) -> tuple[list[Instance], list[BadRow]]:
    """Reads rows `{"id", "task", "messages": [{"role", "content"}, …]}`, one JSON object a line.

    `id` (string or integer, default `FILE:LINE`) must be unique in the file; `task` defaults to
    "(no task)". Turns are an optional system turn, then user and assistant in turn, ending with
    the assistant. Other fields are left alone; blank lines are no rows.

    Args:
        path: the file; read as gzip if its name ends in .gz.
        bad_rows: "refuse" raises at the first bad row, "skip" leaves bad rows out and lists them.

    Raises:
        UserError: with file, line and reason; also for a missing, unreadable or rowless file.
    """
    path = Path(path)
    instances: list[Instance] = []
    skipped: list[BadRow] = []
    line_of_id: dict[str, int] = {}
    for number, raw in _lines(path):
        try:
            instance = _instance(raw, f"{path.name}:{number}")
            if instance.id in line_of_id:
                first = line_of_id[instance.id]
                raise _Refused(f'"id" {instance.id!r} was already used on line {first}')
        except _Refused as refusal:
            if bad_rows == "refuse":
                raise UserError(
                    f"{path}:{number}: {refusal}; "
                    "pass --config.data.bad_rows=skip to go on without such rows"
                ) from None
            skipped.append(BadRow(str(path), number, str(refusal)))
            continue
        line_of_id[instance.id] = number
        instances.append(instance)
    if not instances:
        left_out = f" (all {len(skipped)} rows were bad)" if skipped else ""
        raise UserError(f"{path}: holds no instance{left_out}; give a file with at least one row")
    return instances, skipped


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a .jsonl or .jsonl.gz file")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    number = 0
    try:
        with (
            path.open("rb") as stored,
            gzip.open(stored) if path.suffix == ".gz" else stored as file,
            bar(path.stat().st_size, f"reading {path.name}", "B") as progress,
        ):
            for number, raw in enumerate(file, start=1):
                if number % 1000 == 0:
                    progress.update(stored.tell() - progress.n)
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if raw.strip():
                    yield number, raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged gzip after line {number}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _instance(raw: bytes, default_id: str) -> Instance:
    try:
        row = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise _Refused(f"is not UTF-8 (byte {error.start} of the line)") from None
    except json.JSONDecodeError as error:
        raise _Refused(f"is not JSON: {error.msg} (column {error.colno})") from None
    except (RecursionError, ValueError) as error:
        raise _Refused(f"is not JSON that can be read: {error}") from None
    if not isinstance(row, dict):
        raise _Refused(f"is a JSON {_json_type(row)}, not an object")
    identity = row.get("id", default_id)
    if isinstance(identity, int) and not isinstance(identity, bool):
        identity = str(identity)
    task = row.get("task", NO_TASK)
    for name, value in (("id", identity), ("task", task)):
        _check_text(name, value)
        if "\n" in value or "\r" in value:
            raise _Refused(f'"{name}" holds a line break')
    if "messages" not in row:
        raise _Refused(f'"messages" is missing (there are: {", ".join(map(repr, row)) or "none"})')
    turns = _turns(row["messages"])
    return Instance(id=identity, task=task, turns=turns, references=(turns[-1].content,))


def _turns(messages: Any) -> tuple[Turn, ...]:
    if not isinstance(messages, list):
        raise _Refused(f'"messages" is a JSON {_json_type(messages)}, not a list')
    if not messages:
        raise _Refused('"messages" is empty')
    turns = []
    for number, message in enumerate(messages):
        name = f"messages[{number}]"
        if not isinstance(message, dict):
            raise _Refused(f'"{name}" is a JSON {_json_type(message)}, not an object')
        for key in ("role", "content"):
            if key not in message:
                raise _Refused(f'"{name}.{key}" is missing')
        _check_text(f"{name}.content", message["content"])
        turns.append(Turn(message["role"], message["content"]))
    first = 1 if turns[0].role == "system" else 0
    for number, turn in enumerate(turns[first:]):
        expected = ("user", "assistant")[number % 2]
        if turn.role != expected:
            raise _Refused(
                f'"messages[{first + number}].role" is {turn.role!r} where {expected!r} must stand'
            )
    if turns[-1].role != "assistant":
        raise _Refused(f"the last turn is by {turns[-1].role!r}: there is no answer to learn")
    return tuple(turns)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _Refused(f'"{name}" is a JSON {_json_type(value)}, not a string')
    if not value.strip():
        raise _Refused(f'"{name}" is empty')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise _Refused(
            f'"{name}" holds a lone surrogate, \\u{code:04x}, at character {error.start}'
        ) from None


def _json_type(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
