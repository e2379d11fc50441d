"""Cuts an example to its length so that an answer is the last thing to go.

First each answer is cut to its first `max_answer` tokens; an earlier answer keeps its closing
token, without loss, since the next turn follows on it. Then, where the example is still too long:

* "tail", as in the study, keeps the first `max_length` tokens.
* "head" and "middle" take words out of the prompt, each turn's from its start or from its middle:
  of the earlier turns, the oldest first, then of the system turn, then of the last prompt. What
  the form or the template wrote (bos, headers, special tokens, the generation prompt) stays whole.
  Only when no words are left is the example cut at the tail.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import TOOLS, Turn

TRUNCATIONS = ("tail", "head", "middle")


class TokenizedExample(NamedTuple):
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


class Fitted(NamedTuple):
    """An example within its limits.

    Attributes:
        ids: (n,) int32.
        loss_mask: (n,) bool.
        prompt_cut: tokens taken away that carried no loss.
        answer_cut: tokens that carried loss and do so no more.
        prompt: tokens of `ids` that stand before the last answer that is learned, if one is.
    """

    ids: np.ndarray
    loss_mask: np.ndarray
    prompt_cut: int
    answer_cut: int
    prompt: int


def fit(
    example: TokenizedExample,
    turns: Sequence[Turn],
    max_length: int,
    truncation: str = "tail",
    max_answer: int | None = None,
) -> Fitted:
    """Cuts `example`, whose turns are `turns`, to `max_length` tokens.

    Args:
        truncation: one of `TRUNCATIONS`; or "end", which takes words as "head" does, but from the
            end of each turn, the last prompt first.
    """
    answered = example.answer >= 0
    keep, learned = np.ones(len(example.ids), bool), answered.copy()
    if max_answer is not None:
        _limit_answers(example, max_answer, keep, learned)
    if truncation != "tail" and keep.sum() > max_length:
        _cut_words(example, turns, max_length, truncation, keep, learned)
    kept = np.flatnonzero(keep)[:max_length]
    mask = learned[kept]
    # Where no answer is learned, all is the prompt.
    last = np.flatnonzero(example.answer == example.answer.max(initial=0))
    return Fitted(
        example.ids[kept],
        mask,
        prompt_cut=int((~answered).sum() - (~answered[kept]).sum()),
        answer_cut=int(answered.sum() - mask.sum()),
        prompt=int((kept < (last[0] if len(last) else len(keep))).sum()),
    )


def _limit_answers(
    example: TokenizedExample, limit: int, keep: np.ndarray, learned: np.ndarray
) -> None:
    last = example.answer.max(initial=-1)
    for answer in range(last + 1):
        beyond = np.flatnonzero(example.answer == answer)[limit:]
        learned[beyond] = False
        if answer < last:
            keep[beyond] = example.turn[beyond] < 0
        elif len(beyond):
            keep[beyond[0] :] = False


def _cut_words(
    example: TokenizedExample,
    turns: Sequence[Turn],
    max_length: int,
    truncation: str,
    keep: np.ndarray,
    learned: np.ndarray,
) -> None:
    # What a template writes after the last answer, such as a line break, serves nothing.
    last = np.flatnonzero(learned & keep)[-1:]
    end = int(last[0]) + 1 if len(last) else len(keep)
    over = int(keep.sum()) - max_length
    order = _oldest_first(turns)
    for turn in (None, *(reversed(order) if truncation == "end" else order)):
        if turn is None:
            places = end + np.flatnonzero(keep[end:])
        else:
            places = np.flatnonzero(keep & (example.turn == turn) & (example.answer < 0))
        count = min(over, len(places))
        spare = len(places) - count
        first = {"head": 0, "middle": (spare + 1) // 2, "end": spare}[truncation]
        keep[places[first : first + count]] = False
        over -= count


def _oldest_first(turns: Sequence[Turn]) -> list[int]:
    first = sum(turn.role in (TOOLS, "system") for turn in turns[:2])
    last = len(turns) - 2
    return [*range(first, last), *range(first), last]
