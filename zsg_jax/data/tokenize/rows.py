"""One instance as tokens, each told whose it is: an answer's, a turn's own words, or the form's."""

from typing import NamedTuple

import numpy as np


class TokenRow(NamedTuple):
    """The tokens of an instance, whole.

    Attributes:
        ids: (n,) int32.
        answer: (n,) int32, the answer, from 0, that the token is learned for; -1: carries no loss.
        turn: (n,) int32, the turn whose own words the token holds; -1: the form wrote it.
    """

    ids: np.ndarray
    answer: np.ndarray
    turn: np.ndarray


class Unfit(Exception):
    """Why a template cannot put an instance into tokens with an exact mask."""


def holds_words(spans: np.ndarray, start: int, end: int, lead: int) -> np.ndarray:
    """Which tokens hold words of the characters [start, end), and nothing that the form wrote.

    Args:
        spans: (n, 2) characters of each token.
        lead: white space of the form before `start` that a token may join with the first word.

    Returns:
        (n,) bool.
    """
    return (spans[:, 0] >= start - lead) & (spans[:, 1] > start) & (spans[:, 1] <= end)
