"""Orders by numbers that training examples carry: that these are there, and which they are."""

from collections.abc import Sequence

from zsg_jax.arrangement.methods import columns, scores_digest
from zsg_jax.data.columns import numbers
from zsg_jax.data.dataset import Dataset


def check_scores(methods: Sequence[str], train: Dataset) -> dict[str, str]:
    """Refuses training examples without a number that one of the methods goes by.

    Returns:
        The `scores_digest` of the numbers, by the column that holds them.

    Raises:
        UserError: naming the example by file and line.
    """
    return {column: scores_digest(numbers(train, column)) for column in columns(methods)}
