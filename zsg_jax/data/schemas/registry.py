"""The schemas that records may have, and which of them the first records of a source show.

A new schema is a function from a record to its turns, and an entry in `SCHEMAS`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, NamedTuple

from zsg_jax.data.formats.jsonl import Record, readable
from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas import conversations, pairs, unanswered
from zsg_jax.runtime.errors import UserError, did_you_mean
from zsg_jax.runtime.settings import setting

BAD_ROWS = ("refuse", "skip")  # what is done where there is one
AUTO = "auto"
FIRST = 32  # records that are looked at
_TASK = ("task", "task_name", "task_id")


class Schema(NamedTuple):
    """How records of one schema are read.

    Attributes:
        turns: a record's turns; raises Refused where it is no such record.
        fields: sets of fields; a record that has all of one set looks like this schema.
        task: fields that may name a record's task, the first one that is there does.
        left_out: how many turns of a record `turns` does without.
        answer_by: the new names of fields by which such a record, which holds no one answer to
            learn, would be one that does; None: it does.
        whole: what all turns of a record are, in words.
    """

    turns: Callable[[Mapping[str, Any]], tuple[Turn, ...]]
    fields: tuple[tuple[str, ...], ...]
    task: tuple[str, ...] = _TASK
    left_out: Callable[[Mapping[str, Any], tuple[Turn, ...]], int] = lambda record, turns: 0
    answer_by: str | None = None
    whole: str = "prompt and answer"


SCHEMAS = {
    "messages": Schema(conversations.messages, (("messages",),), ("task",)),
    # Flan-mini tells in "source" what collection a record is from.
    "sharegpt": Schema(
        conversations.sharegpt,
        (("conversations",),),
        (*_TASK, "source"),
        conversations.sharegpt_left_out,
    ),
    "alpaca": Schema(pairs.alpaca, (("instruction", "output"),)),
    "prompt_completion": Schema(pairs.prompt_completion, (("prompt", "completion"),)),
    "question_answer": Schema(pairs.question_answer, (("question", "answer"),)),
    "inputs_targets": Schema(pairs.inputs_targets, (pairs.PRETOKENIZED, ("inputs", "targets"))),
    "preference": Schema(
        unanswered.preference,
        (("chosen", "rejected"),),
        answer_by="completion=chosen (and prompt=OLD where the prompt has another name; or "
        "messages=chosen, of conversations)",
        whole="prompt and chosen answer",
    ),
    "prompt": Schema(unanswered.prompt, (("prompt",),), answer_by="completion=OLD", whole="prompt"),
    "text": Schema(
        unanswered.plain_text, (("text",),), answer_by="prompt=OLD,completion=OLD", whole="text"
    ),
}


def check_schema(name: str) -> None:
    """Raises UserError unless `name` is "auto" or one of `SCHEMAS`."""
    if name != AUTO and name not in SCHEMAS:
        raise UserError(
            f"{setting('data.format', repr(name))} is unknown; choose one of "
            f"{', '.join((AUTO, *SCHEMAS))}" + did_you_mean(name, SCHEMAS)
        )


def fitting(record: Mapping[str, Any]) -> list[str]:
    """The schemas that a record's fields allow.

    Many records with an answer have a "prompt" or a "text" too: only where no schema with an answer
    fits, the first that does without one counts.
    """
    found = [
        name
        for name, schema in SCHEMAS.items()
        if any(all(key in record for key in fields) for fields in schema.fields)
    ]
    return [name for name in found if SCHEMAS[name].answer_by is None] or found[:1]


def recognize(records: Iterable[Record]) -> tuple[str, Iterator[Record]]:
    """Finds the schema of a source by its first records, and gives all records back.

    Records that are broken, or have the fields of no schema, do not count while others do, nor do
    those without an answer beside others with one; if none can be read at all, the schema is
    "messages", by which each is refused with its own reason. Where the schema has no answer, later
    records of another schema are refused: what they have besides would be lost.

    Args:
        records: of one file or of several.

    Raises:
        UserError: if the records fit no schema, or several, or have different ones.
    """
    rest = iter(records)
    head = list(islice(rest, FIRST))
    known = [(record, found) for record in head if (found := readable(record)) is not None]
    fits = [(record, found, names) for record, found in known if (names := fitting(found))]
    if not fits and known:
        raise _unknown(*known[0])
    with_answers = [one for one in fits if SCHEMAS[one[2][0]].answer_by is None]
    fits = with_answers or fits
    if not fits:
        return "messages", chain(head, rest)
    first, first_fields, schemas = fits[0]
    for record, _, names in fits[1:]:
        if not set(schemas) & set(names):
            raise _different(record, names, schemas, first)
        schemas = [name for name in schemas if name in names]
    if len(schemas) > 1:
        raise UserError(
            f"{first.location}: could be a row of {' or '.join(schemas)} (its fields are "
            f"{_listed(first_fields)}); say which by {_format('SCHEMA')}"
        )
    if SCHEMAS[schemas[0]].answer_by is not None:
        rest = _refusing_others(rest, schemas[0], first)
    return schemas[0], chain(head, rest)


def _refusing_others(records: Iterator[Record], schema: str, first: Record) -> Iterator[Record]:
    for record in records:
        fields = readable(record) or {}
        names = fitting({key: one for key, one in fields.items() if one is not None})
        if names and schema not in names:
            way_out = f"to read all as such, pass {_format(schema)}"
            why = f"{_other(names, [schema], first)}; give them apart; {way_out}"
            record = record._replace(raw=b"", refusal=why)
        yield record


def _unknown(record: Record, fields: Mapping[str, Any]) -> UserError:
    schemas = "; ".join(
        f"{name}: {' or '.join(' + '.join(fields) for fields in schema.fields)}"
        for name, schema in SCHEMAS.items()
    )
    return UserError(
        f"{record.location}: its fields are {_listed(fields)}, which fit no schema ({schemas}); "
        f"say which they are by {setting('data.fields', 'NEW=OLD,…')}"
    )


def _different(record: Record, names: list[str], schemas: list[str], first: Record) -> UserError:
    return UserError(
        f"{record.location}: {_other(names, schemas, first)}; give them apart, or pass "
        f"{_format('SCHEMA')} and leave the others out as bad rows"
    )


def _format(schema: str) -> str:
    """How a schema is given, of both sides or of one."""
    return (
        f"{setting('data.format', schema)} (of one side alone: "
        f'"format": "{schema}" beside its "path" in a .mix.json)'
    )


def _other(names: list[str], schemas: list[str], first: Record) -> str:
    mine, its = (" or ".join(some) for some in (schemas, names))
    return f"is a row of {its}, but {first.location} is one of {mine}"


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, fields)) or "none"
