"""Fields of rows under the names that a kind of row knows, before anybody looks at them."""

import json
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

from zsg_jax.data.formats.jsonl import Row
from zsg_jax.data.schemas.checks import Refused, json_object, readable
from zsg_jax.runtime.errors import check

FIELDS_FLAG = "--config.data.fields"
FIRST = 32  # rows looked at for the names


def parse_fields(text: str, flag: str = FIELDS_FLAG) -> dict[str, str]:
    """Reads "NEW=OLD,NEW=OLD", as "prompt=question,completion=answer"; "" renames nothing.

    Raises:
        UserError: for what is no such list, or gives one name twice.
    """
    fields: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        new, _, old = (piece.strip() for piece in part.partition("="))
        check(
            bool(new and old),
            f"{flag}={text!r}: {part!r} is no NEW=OLD; give the like of "
            "prompt=question,completion=answer",
        )
        check(new not in fields, f"{flag}={text!r}: {new!r} is given twice; give it once")
        fields[new] = old
    return fields


def rename(raw: bytes, fields: Mapping[str, str]) -> bytes:
    """A row with its fields renamed, all at once; the other fields stay.

    An old name may lead into objects and lists, as "answers.text.0"; what it leads out of stays as
    well. A field that is not there is not there under its new name.

    Raises:
        Refused: where `raw` holds no JSON object.
    """
    row = json_object(raw)
    taken = {new: _at(row, old) for new, old in fields.items()}
    gone = set(fields) | set(fields.values())
    rest = {name: value for name, value in row.items() if name not in gone}
    found = {new: value[0] for new, value in taken.items() if value}
    return json.dumps(found | rest).encode()


def rename_rows(rows: Iterator[Row], fields: Mapping[str, str]) -> Iterator[Row]:
    """`rows` with their fields renamed; those that hold no object stay as they are.

    Raises:
        UserError: for an old name that none of the first rows has.
    """
    head = list(islice(rows, FIRST))
    known = [found for row in head if (found := readable(row)) is not None]
    for old in fields.values():
        check(
            not known or any(_at(row, old) for row in known),
            f"{head[0].place}: has no field {old!r} that could be renamed, nor have the rows after "
            f"it (there are: {', '.join(map(repr, known[0])) if known else ''})",
        )
    for row in chain(head, rows):
        try:
            yield row._replace(raw=rename(row.raw, fields)) if not row.refusal else row
        except Refused:
            yield row


def _at(row: Any, name: str) -> tuple[Any, ...]:
    """The value under a name, alone in a tuple, or nothing."""
    if isinstance(row, dict) and name in row:
        return (row[name],)
    first, dot, rest = name.partition(".")
    if isinstance(row, list) and first.isascii() and first.isdigit() and int(first) < len(row):
        value = row[int(first)]
        return _at(value, rest) if dot else (value,)
    if isinstance(row, dict) and dot and first in row:
        return _at(row[first], rest)
    return ()
