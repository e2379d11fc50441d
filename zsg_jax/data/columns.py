"""Numbers that the rows of a source carry: qualities, difficulties, what others have scored."""

import json
import math
from typing import Any

import numpy as np

from zsg_jax.data.dataset import Dataset
from zsg_jax.data.formats.fields import value_at
from zsg_jax.data.formats.jsonl import json_type
from zsg_jax.runtime.errors import UserError, check

_EXACT = 2**53  # up to here float64 holds every whole number


def numbers(dataset: Dataset, column: str) -> np.ndarray:
    """The number that each row has in a field, (N,) float64.

    Args:
        dataset: N examples, whose rows are read once.
        column: the field's name, which may lead into objects and lists, as "scores.quality".

    Raises:
        UserError: a row, named by file and line, whose field is missing or is no finite number, or
            a whole one of 2^53 or more that float64 does not tell from another row's.
    """
    found, long = np.empty(len(dataset), np.float64), dict[float, int]()
    for index in range(len(dataset)):
        record = json.loads(dataset.own(index))
        value = value_at(record, column)
        if not value or not _is_number(value[0]):
            raise UserError(
                f"{dataset.location(index)}: {_told(column, value, record)}; give every row one, "
                "or choose another method"
            )
        found[index] = value[0]
        if isinstance(value[0], int) and abs(value[0]) >= _EXACT:
            other = long.setdefault(float(value[0]), value[0])
            check(
                other == value[0],
                f"{dataset.location(index)}: {column!r} is {value[0]}, that of another row {other}:"
                " too long to be told apart; take less from all, so that they are shorter",
            )
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _told(column: str, value: tuple[Any, ...], record: dict[str, Any]) -> str:
    if not value:
        return f"has no {column!r} to be ordered by (there are: {', '.join(map(repr, record))})"
    kind = "number that is finite" if isinstance(value[0], int | float) else "number"
    kind = "number" if isinstance(value[0], bool) else kind
    return f"{column!r} is a JSON {json_type(value[0])} ({str(value[0])[:40]}), no {kind}"
