"""Orders by numbers that training examples carry: that these are there, and the same for all."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zsg_jax.arrangement.methods import SCORES, columns
from zsg_jax.data.columns import numbers
from zsg_jax.data.dataset import Dataset
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.settings import setting


def check_scores(methods: Sequence[str], train: Dataset) -> None:
    """Refuses training examples without a number that one of the methods goes by.

    Raises:
        UserError: naming the example by file and line.
    """
    for column in columns(methods):
        numbers(train, column)


def check_same_scores(where: Path, orders: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Refuses orders by a column of the rows that held other numbers for one than for another.

    Args:
        where: they lie, for the message.
        orders: the name of each, and what it was made with.
    """
    digests: dict[str, str] = {}
    for name, found in orders:
        if SCORES in found:
            column = columns([name])[0]
            check(
                digests.setdefault(column, found[SCORES]) == found[SCORES],
                f"{where}: not all were ordered by the same {column!r}, which has changed in the "
                f"training rows since; give another {setting('workdir')}, or put it back and "
                "delete what was made by the other",
            )
