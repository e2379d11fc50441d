"""What rows of every kind are held to: texts, turns that take turns, and how a refusal is told."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from zsg_jax.data.formats.jsonl import Row
from zsg_jax.data.instance import Turn

# Fields that a row may lack; a table has null for them then.
OPTIONAL = ("id", "task", "task_name", "task_id", "source", "references", "system", "history")


class Refused(Exception):
    """Why one row is no instance."""


class Said(NamedTuple):
    """One message of a row before it is checked; `place` names its role's field in messages."""

    place: str
    role: Any
    content: Any


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that `raw` holds; raises Refused if it holds none."""
    try:
        row = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise Refused(f"is not UTF-8 (byte {error.start} of the row)") from None
    except json.JSONDecodeError as error:
        raise Refused(f"is not JSON: {error.msg} (column {error.colno})") from None
    except (RecursionError, ValueError) as error:
        raise Refused(f"is not JSON that can be read: {error}") from None
    if not isinstance(row, dict):
        raise Refused(f"is a JSON {json_type(row)}, not an object")
    return row


def field(row: Mapping[str, Any], name: str) -> Any:
    """The value of a field that a row of this kind must have; raises Refused without it."""
    if name not in row:
        raise Refused(f'"{name}" is missing (there are: {", ".join(map(repr, row)) or "none"})')
    return row[name]


def text(row: Mapping[str, Any], name: str) -> str:
    """The text that stands under `name`; raises Refused where there is none."""
    value = field(row, name)
    check_text(name, value)
    return value


def message_list(name: str, value: Any) -> list[dict[str, Any]]:
    """`value` if it is a list of objects, at least one; raises Refused otherwise."""
    if not isinstance(value, list):
        raise Refused(f'"{name}" is a JSON {json_type(value)}, not a list')
    if not value:
        raise Refused(f'"{name}" is empty')
    for number, message in enumerate(value):
        if not isinstance(message, dict):
            raise Refused(f'"{name}[{number}]" is a JSON {json_type(message)}, not an object')
    return value


def one_system(row: Mapping[str, Any]) -> list[Turn]:
    """The system turn that a row's "system" field makes; none where it is missing or empty."""
    if not row.get("system"):
        return []
    return [Turn("system", text(row, "system"))]


def conversation(said: Sequence[Said]) -> tuple[Turn, ...]:
    """The turns, if they are a system turn or none, then user and assistant in turn.

    Raises:
        Refused: for another order, or where the last turn is no answer.
    """
    first = 1 if said[0].role == "system" else 0
    for number, one in enumerate(said[first:]):
        expected = ("user", "assistant")[number % 2]
        if one.role != expected:
            raise Refused(f'"{one.place}" is {one.role!r} where {expected!r} must stand')
    if said[-1].role != "assistant":
        raise Refused(f"the last turn is by {said[-1].role!r}: there is no answer to learn")
    return tuple(Turn(one.role, one.content) for one in said)


def check_text(name: str, value: Any) -> None:
    """Raises Refused unless `value` is a string that says something and can be written."""
    if not isinstance(value, str):
        raise Refused(f'"{name}" is a JSON {json_type(value)}, not a string')
    if not value.strip():
        raise Refused(f'"{name}" is empty')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise Refused(
            f'"{name}" holds a lone surrogate, \\u{code:04x}, at character {error.start}'
        ) from None


def json_type(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def readable(row: Row) -> dict[str, Any] | None:
    """The fields of a row; None where there is no JSON object."""
    try:
        return None if row.refusal else json_object(row.raw)
    except Refused:
        return None
