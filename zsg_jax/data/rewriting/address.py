"""Rows of string rewriting as a source like any other: "rewrites:rules=1024,samples=10,…".

One address names both sides: as it stands the rows to train on, with `side=test` those of unseen
rules. They are the rows that the instruction-diversity study draws for a cell of the same keys.
"""

import json
import re
from array import array
from collections.abc import Iterator
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.data.formats.jsonl import Record
from zsg_jax.data.rewriting.drawing import Drawing, Scoring, draw_sides, train_rows, unseen_rows
from zsg_jax.data.rewriting.forms import Writer
from zsg_jax.runtime.addresses import pairs
from zsg_jax.runtime.errors import UserError, check, did_you_mean
from zsg_jax.runtime.progress import count, say, track

PREFIX = "rewrites:"
SIDES = ("train", "test")
TASKS = ("family", "instruction")
_TEST = "test_"
_SWITCH = {"true": True, "false": False}
_BETWEEN_LETTERS = re.compile(r"(?<=\w)(?=\w)")


@dataclass(frozen=True)
class Text:
    """How rows are given.

    Attributes:
        side: "train", or "test" for the rows of unseen rules.
        form: of a row, a name from `forms.FORMS`; the mark at its end is left out.
        letters: of the alphabet.
        spaced: whether letters stand apart, as words do: what counts words, as ROUGE, then sees
            each of them.
        task: what a row's task is named by, the "family" of its rules or its "instruction".
    """

    side: str = "train"
    form: str = "lines"
    letters: int = 26
    spaced: bool = False
    task: str = "family"


def is_address(path: str | Path) -> bool:
    """Whether a source is such an address."""
    return str(path).startswith(PREFIX)


def read_address(address: str) -> tuple[Drawing, Scoring, Text]:
    """What an address asks for: KEY=VALUE, joined by commas.

    Keys are the fields of `Text` and `Drawing`, and those of `Scoring` after "test_".

    Raises:
        UserError: for a key that there is not or that comes twice, and for a wrong value.
    """
    own: tuple[type, ...] = (Text, Drawing)
    known = {one.name: (cls, one) for cls in own for one in fields(cls)}
    known |= {_TEST + one.name: (Scoring, one) for one in fields(Scoring)}
    given: dict[type, dict[str, Any]] = {Drawing: {}, Scoring: {}, Text: {}}
    parts = filter(None, address.removeprefix(PREFIX).split(","))
    for key, value in pairs(address, parts, known):
        cls, one = known[key]
        given[cls][one.name] = _value(address, key, value, one)
    try:
        found = Drawing(**given[Drawing]), Scoring(**given[Scoring]), Text(**given[Text])
        _check(*found)
    except UserError as error:
        raise UserError(f"{address}: {error}") from None
    return found


def records(path: Path) -> Iterator[Record]:
    """The rows of an address, as `prompt` and `completion`.

    Each has an `id`, a `task`, and of its rules the `family`, the number of their `instruction` and
    how often one `applied`. Rows are drawn one by one; how many are copies is said at the end.

    Raises:
        UserError: as `read_address` does, and for what cannot be drawn.
    """
    address = str(path)
    drawing, scoring, text = read_address(address)
    try:
        sides = draw_sides(drawing, scoring, text.letters)
        writer = Writer(text.form, sides.language)
        if text.side == "train":
            stream = train_rows(sides, drawing, drawing.different)
        else:
            stream = unseen_rows(sides, scoring)
        kinds = [str(kind) for kind in stream.rules.kinds]
        number, seen = 0, array("q")
        # Rules are numbered on each side anew.
        rule = "rule" if text.side == "train" else "unseen rule"
        for rows in track(stream, "rewriting", stream.chunks):
            tokens, lengths = writer.tokens(rows)
            of_kind = stream.rules.kind[rows.instruction]
            facts = zip(of_kind, rows.instruction, rows.applied, strict=True)
            # Without the mark at the end.
            lines = writer.texts(tokens, np.asarray(lengths) - 1)
            for line, (kind, instruction, applied) in zip(lines, facts, strict=True):
                number += 1
                seen.append(hash(line))
                prompt, answer = line[: writer.prompt].rstrip("\n"), line[writer.prompt :]
                if text.spaced:
                    prompt, answer = (_BETWEEN_LETTERS.sub(" ", one) for one in (prompt, answer))
                record = {
                    "id": f"rewrites/{text.side}/{number}",
                    "task": kinds[kind] if text.task == "family" else f"{rule} {instruction}",
                    "prompt": prompt,
                    "completion": answer,
                    "family": kinds[kind],
                    "instruction": int(instruction),
                    "applied": int(applied),
                }
                yield Record(path, number, json.dumps(record).encode(), unit="row")
        different = len(np.unique(np.frombuffer(seen, np.int64)))
        if different < number:
            told = f"{different:,} of {count(number, 'row')} differ, the others are copies of them"
            say(f"{address}: {told}; longer strings or more letters make copies rare")
    except UserError as error:
        raise UserError(f"{address}: {error}") from None


def _value(address: str, key: str, value: str, one: Field) -> Any:
    """A value as its field has it."""
    if one.type is bool and value in _SWITCH:
        return _SWITCH[value]
    if one.type in (int, float, str):
        try:
            return one.type(value)
        except ValueError:
            pass
    wanted = "a whole number" if one.type is int else "a number"
    wanted = "true or false" if one.type is bool else wanted
    raise UserError(f"{address}: {key}={value!r} must be {wanted}")


def _check(drawing: Drawing, scoring: Scoring, text: Text) -> None:
    """Refuses what could be no source."""
    for key, value, allowed in (("side", text.side, SIDES), ("task", text.task, TASKS)):
        if value not in allowed:
            raise UserError(
                f"{key}={value!r} is unknown; choose {' or '.join(allowed)}"
                + did_you_mean(value, allowed)
            )
    for key in ("rows", "rules"):
        value = getattr(scoring, key)
        check(value >= 1, f"{_TEST}{key}={value} must be at least 1")
    check(scoring.seed >= 0, f"{_TEST}seed={scoring.seed} must be at least 0")
    check(
        text.side == "test" or drawing.different > 0,
        "nothing says how many rows there are; give samples=S of each rule, or pool=N in all",
    )
