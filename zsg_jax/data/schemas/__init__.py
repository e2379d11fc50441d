"""The kinds of row there are, and which of them the first rows of a source show."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple

from zsg_jax.data.formats.jsonl import Row
from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas import (
    alpaca,
    inputs_targets,
    messages,
    prompt_completion,
    question_answer,
    sharegpt,
)
from zsg_jax.data.schemas.checks import readable
from zsg_jax.runtime.errors import UserError, nearest

AUTO = "auto"
FIRST = 32  # rows that are looked at
FLAG = "--config.data.format"


class Kind(NamedTuple):
    """How rows of one kind are read.

    Attributes:
        fields: sets of fields; a row that has all of one set looks like this kind.
        task: fields that may name a row's task, the first one that is there does.
        turns: a row's turns; raises Refused where it is no such row.
        left_out: how many turns of a row `turns` does without.
    """

    fields: tuple[tuple[str, ...], ...]
    task: tuple[str, ...]
    turns: Callable[[Mapping[str, Any]], tuple[Turn, ...]]
    left_out: Callable[[Mapping[str, Any], tuple[Turn, ...]], int] = lambda row, turns: 0


KINDS = {
    "messages": Kind(messages.FIELDS, messages.TASK, messages.turns),
    "sharegpt": Kind(sharegpt.FIELDS, sharegpt.TASK, sharegpt.turns, sharegpt.left_out),
    "alpaca": Kind(alpaca.FIELDS, alpaca.TASK, alpaca.turns),
    "prompt_completion": Kind(
        prompt_completion.FIELDS, prompt_completion.TASK, prompt_completion.turns
    ),
    "question_answer": Kind(question_answer.FIELDS, question_answer.TASK, question_answer.turns),
    "inputs_targets": Kind(inputs_targets.FIELDS, inputs_targets.TASK, inputs_targets.turns),
}


def check_kind(name: str, flag: str = FLAG) -> None:
    """Raises UserError unless `name` is "auto" or one of `KINDS`; `flag` is what gave it."""
    if name != AUTO and name not in KINDS:
        raise UserError(
            f"{flag}={name!r} is unknown; choose one of {', '.join((AUTO, *KINDS))}"
            + nearest(name, KINDS)
        )


def fitting(row: Mapping[str, Any]) -> list[str]:
    """The kinds that a row's fields allow."""
    return [
        name
        for name, kind in KINDS.items()
        if any(all(key in row for key in fields) for fields in kind.fields)
    ]


def recognize(rows: Iterable[Row], flag: str = FLAG) -> tuple[str, Iterator[Row]]:
    """Tells the kind of a source's rows by the first of them, and gives all of them back.

    Rows that are broken, or have the fields of no kind, have no say while others have; if none can
    be read at all, the kind is "messages", by which each is refused with its own reason. The first
    row of every file must fit the kind as well.

    Args:
        rows: of one file or of several.
        flag: what a user passes to settle it.

    Raises:
        UserError: if the rows fit no kind, or several, or are of different kinds; the latter also
            while the rows given back are read.
    """
    rest = iter(rows)
    head = list(islice(rest, FIRST))
    kinds: list[str] = []
    first = strange = None
    for row in head:
        found = readable(row)
        if found is None:
            continue
        fits = fitting(found)
        if not fits:
            strange = strange or (row, found)
        elif first is None:
            first, kinds = (row, found), fits
        elif not set(kinds) & set(fits):
            raise _different(row, fits, kinds, first[0], flag)
        else:
            kinds = [name for name in kinds if name in fits]
    if len(kinds) > 1 and first:
        raise UserError(
            f"{first[0].place}: could be a row of {' or '.join(kinds)} (its fields are "
            f"{_named(first[1])}); say which by {flag}=KIND"
        )
    if not kinds and strange:
        known = "; ".join(
            f"{name}: {' or '.join(' + '.join(fields) for fields in kind.fields)}"
            for name, kind in KINDS.items()
        )
        raise UserError(
            f"{strange[0].place}: its fields are {_named(strange[1])}, which make no kind of row "
            f"({known}); say which they are by {flag.replace('format', 'fields')}=NEW=OLD,…"
        )
    kind = kinds[0] if kinds else "messages"
    return kind, _alike(chain(head, rest), kind, flag)


def checked(rows: Iterable[Row], kind: str, flag: str = FLAG) -> Iterator[Row]:
    """All `rows`, of the `kind` that a user named; refused if the first of them are all of others.

    Raises:
        UserError: naming a row and what it is.
    """
    rest = iter(rows)
    head = list(islice(rest, FIRST))
    fits = [(row, fitting(readable(row) or {})) for row in head]
    other = next(((row, names) for row, names in fits if names), None)
    if other is not None and not any(kind in names for _, names in fits):
        raise UserError(
            f"{other[0].place}: is a row of {' or '.join(other[1])}, not of {kind}; leave {flag} "
            "out"
        )
    return chain(head, rest)


def _alike(rows: Iterable[Row], kind: str, flag: str) -> Iterator[Row]:
    first = last = None
    for row in rows:
        first = first or row
        if last is not None and row.path != last:
            fits = fitting(readable(row) or {})
            if fits and kind not in fits:
                raise _different(row, fits, [kind], first, flag)
        last = row.path
        yield row


def _different(row: Row, fits: list[str], kinds: list[str], first: Row, flag: str) -> UserError:
    return UserError(
        f"{row.place}: is a row of {' or '.join(fits)}, but {first.place} is one of "
        f"{' or '.join(kinds)}; give them apart, or pass {flag}=KIND and leave the others out as "
        "bad rows"
    )


def _named(row: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, row)) or "none"
