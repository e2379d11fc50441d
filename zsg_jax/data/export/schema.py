"""Finds one Arrow type for every field of JSON rows, or tells which field has none."""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from zsg_jax.runtime.errors import UserError

DEEPEST = 64
MOST_KEYS = 4096

_NAMES = {
    str: "a string",
    list: "a list",
    dict: "an object",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}
_FLOAT_EXACT = 2**53


class _Clash(Exception):
    """Why a field has no type."""


class Field:
    """What was seen of one field: `see` takes values, `arrow_type` tells what holds them all.

    Attributes:
        path: the field's name for messages, as messages[].content.
        fields: of objects, what was seen of each key, in the order of first appearance.
        item: of lists, what was seen of their items.
    """

    def __init__(self, path: str, depth: int) -> None:
        if depth > DEEPEST:
            raise _Clash(f"field {path[:80]!r} is nested more than {DEEPEST} deep")
        self.path = path
        self.fields: dict[str, Field] = {}
        self.item: Field | None = None
        self._depth = depth
        self._first_row: dict[type, int] = {}
        self._low = self._high = 0
        self._wide_row: int | None = None

    def see(self, value: Any, row: int) -> None:
        """Takes a value of row number `row`; raises _Clash where no type holds all values."""
        kind = type(value)
        if value is None:
            return
        if kind not in self._first_row:
            self._see_kind(kind, row)
        if kind is str:
            if not value.isascii():
                _check_text(value, f"field {self.path!r}")
        elif kind is int:
            self._see_integer(value, row)
        elif kind is dict:
            for key, one in value.items():
                field = self.fields.get(key)
                if field is None:
                    field = self._new_field(key)
                field.see(one, row)
        elif kind is list:
            if self.item is None:
                self.item = Field(f"{self.path}[]", self._depth + 1)
            for one in value:
                self.item.see(one, row)

    def arrow_type(self) -> pa.DataType:
        """The type; null for what never was anything but null or an object without keys."""
        kinds = self._first_row
        if dict in kinds and self.fields:
            return pa.struct([(key, field.arrow_type()) for key, field in self.fields.items()])
        if list in kinds:
            return pa.list_(self.item.arrow_type() if self.item else pa.null())
        if str in kinds:
            return pa.string()
        if bool in kinds:
            return pa.bool_()
        if float in kinds:
            return pa.float64()
        if int not in kinds:
            return pa.null()
        largest = max(self._high, -self._low - 1)
        if largest < 2**63:
            return pa.int64()
        return pa.decimal128(38, 0) if largest < 10**38 - 1 else pa.decimal256(76, 0)

    def has_bare_object(self) -> bool:
        """Whether the field holds, at any depth, objects that never have a key."""
        if dict in self._first_row and not self.fields:
            return True
        parts = [*self.fields.values(), *([self.item] if self.item else [])]
        return any(part.has_bare_object() for part in parts)

    def fitted(self, value: Any) -> Any:
        """`value` with null for objects that never have a key: Parquet cannot write those."""
        if isinstance(value, dict):
            return {key: self.fields[key].fitted(one) for key, one in value.items()} or (
                {} if self.fields else None
            )
        if isinstance(value, list) and self.item:
            return [self.item.fitted(one) for one in value]
        return value

    def _see_kind(self, kind: type, row: int) -> None:
        for other, first in self._first_row.items():
            if {kind, other} != {int, float}:
                raise _Clash(
                    f"field {self.path!r} is {_NAMES[kind]} here, but {_NAMES[other]} "
                    f"in row {first}"
                )
        self._first_row[kind] = row
        if kind is float and self._wide_row is not None:
            self._refuse_wide(self._wide_row)

    def _see_integer(self, value: int, row: int) -> None:
        if value > self._high:
            self._high = value
        elif value < self._low:
            self._low = value
        else:
            return
        if abs(value) >= 10**76:
            raise _Clash(f"field {self.path!r} is an integer of more than 76 digits")
        if abs(value) > _FLOAT_EXACT:
            self._wide_row = row
            if float in self._first_row:
                self._refuse_wide(row)

    def _refuse_wide(self, row: int) -> None:
        raise _Clash(
            f"field {self.path!r} holds an integer beyond 2^53 in row {row} and fractions "
            f"in row {self._first_row[float]}, and no column holds both exactly"
        )

    def _new_field(self, key: str) -> "Field":
        _check_text(key, "a field's name")
        if len(self.fields) == MOST_KEYS:
            raise _Clash(f"field {self.path!r} has more than {MOST_KEYS:,} different keys")
        field = Field(f"{self.path}.{key}" if self.path else key, self._depth + 1)
        self.fields[key] = field
        return field


def infer(rows: Iterable[bytes], format: str) -> Field:
    """Looks at every row; the result's `fields` are the columns.

    Integers are int64, or decimals without fraction where they need more; with fractions among
    them, float64. A key that a row lacks is null.

    Raises:
        UserError: naming the field and the row, where a field has no one type.
    """
    root = Field("", 0)
    for number, raw in enumerate(rows, start=1):
        row = json.loads(raw)
        try:
            root.see(row, number)
        except _Clash as clash:
            identity = f" (id {row['id']!r})" if isinstance(row.get("id"), str) else ""
            raise UserError(
                f"{format}: row {number}{identity}: {clash}; mend the rows or give --format jsonl"
            ) from None
    return root


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise _Clash(f"{what} holds a lone surrogate, \\u{code:04x}") from None
