"""Fields of records under the names that a schema knows."""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from zsg_jax.data.formats.jsonl import Record, Refused, json_object, readable
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import setting

FIRST = 32  # records that are looked at for the names


def parse_fields(text: str) -> dict[str, str]:
    """Reads "NEW=OLD,NEW=OLD", as "prompt=question,completion=answer"; "" renames nothing.

    Raises:
        UserError: for what is no such list, or gives one name twice.
    """
    given = setting("data.fields", repr(text))
    fields: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        new, _, old = (piece.strip() for piece in part.partition("="))
        check(
            bool(new and old),
            f"{given}: {part!r} is no NEW=OLD; give the like of prompt=question,completion=answer",
        )
        check(new not in fields, f"{given}: {new!r} is given twice; give it once")
        fields[new] = old
    return fields


def rename(raw: bytes, fields: Mapping[str, str]) -> bytes:
    """A record with its fields renamed, all at once; the other fields stay.

    An old name may lead into objects and lists, as "answers.text.0"; what it leads out of stays as
    well. Where there is no field of the old name, or null, one that has the new name stays.

    Raises:
        Refused: where `raw` holds no JSON object.
    """
    record = json_object(raw)
    values = {new: value_at(record, old) for new, old in fields.items()}
    renamed = {
        new: value[0]
        for new, value in values.items()
        if value and (value[0] is not None or new not in record)
    }
    gone = {*renamed, *fields.values()}
    others = {name: value for name, value in record.items() if name not in gone}
    return json.dumps(renamed | others).encode()


# Takes an old name, and why it is refused where no other source has it, or "" where this one does.
Note = Callable[[str, str], None]


class OldNames:
    """Which sources have the old names, of those that are read by the same new ones."""

    def __init__(self) -> None:
        self._there: set[str] = set()
        self._lacking: list[tuple[str, str, str]] = []

    def note(self, source: str, old: str, refusal: str) -> None:
        """As `Note`, of a source, which messages call by this name."""
        if refusal:
            self._lacking.append((source, old, refusal))
        else:
            self._there.add(old)

    def refusals(self, source: str) -> list[str]:
        """Of the old names that a source does not have, nor any before it."""
        return [why for one, old, why in self._lacking if one == source and old not in self._there]

    def tell(self) -> None:
        """Says which sources are taken as they are."""
        lacking = dict.fromkeys((source, old) for source, old, _ in self._lacking)
        for source in dict.fromkeys(source for source, _ in lacking):
            names = " or ".join(repr(old) for one, old in lacking if one == source)
            say(
                f"{source}: none of its first rows has {names}, which "
                f"{setting('data.fields')} renames; rows without it are taken as they are"
            )

    def check(self) -> None:
        """Refuses an old name that no source has, and tells the others."""
        for _, old, refusal in self._lacking:
            check(old in self._there, refusal)
        self.tell()


def refuse(old: str, refusal: str) -> None:
    """Refuses an old name that a source does not have; `Note` of one that is read alone."""
    if refusal:
        raise UserError(refusal)


def rename_records(
    records: Iterator[Record], fields: Mapping[str, str], note: Note = refuse
) -> Iterator[Record]:
    """`records` with their fields renamed; those that hold no object stay as they are.

    `note` is told of every old name whether one of the first records has it.
    """
    head = list(islice(records, FIRST))
    known = [found for record in head if (found := readable(record)) is not None]
    for old in fields.values() if known else ():
        there = any(value_at(found, old) for found in known)
        refusal = (
            f"{head[0].location}: has no field {old!r} that could be renamed, nor have the rows "
            f"after it (there are: {', '.join(map(repr, known[0]))})"
        )
        note(old, "" if there else refusal)
    for record in chain(head, records):
        try:
            yield record if record.refusal else record._replace(raw=rename(record.raw, fields))
        except Refused:
            yield record


def value_at(value: Any, name: str) -> tuple[Any, ...]:
    """The value under a name, which may lead into objects and lists, in a tuple; or nothing."""
    if isinstance(value, dict) and name in value:
        return (value[name],)
    first, dot, rest = name.partition(".")
    if isinstance(value, list) and first.isascii() and first.isdigit() and int(first) < len(value):
        item = value[int(first)]
        return value_at(item, rest) if dot else (item,)
    if isinstance(value, dict) and dot and first in value:
        return value_at(value[first], rest)
    return ()
