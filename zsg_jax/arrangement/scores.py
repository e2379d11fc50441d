"""Orders by numbers that training examples carry: that these are there, and which they are."""

import hashlib
from collections.abc import Sequence

from zsg_jax.arrangement.methods import columns
from zsg_jax.data.columns import numbers
from zsg_jax.data.dataset import Dataset


def check_scores(methods: Sequence[str], train: Dataset) -> dict[str, str]:
    """Refuses training examples without a number that one of the methods goes by.

    Returns:
        The SHA-256 of the numbers, (N,) float64, by the column that holds them.

    Raises:
        UserError: naming the example by file and line.
    """
    return {
        column: hashlib.sha256(numbers(train, column).tobytes()).hexdigest()
        for column in columns(methods)
    }
