"""Picks pairs of a training row and a test row for a person to read, and cuts their texts."""

from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance

SHORT = 320  # letters of a prompt shown at once
ANSWER = 160  # letters of an answer shown at once
LONGEST = 12_000  # letters of a text on the page, opened


class Pair(NamedTuple):
    """The row at `position` (from 0) of the order, a test row, and their cosine."""

    position: int
    test_row: int
    cosine: float


class Passage(NamedTuple):
    """A text as the page shows it.

    Attributes:
        role: who speaks, as `Turn.role` has it.
        short: the beginning; None where the text is short enough to be shown whole.
        text: the text, up to `LONGEST` letters.
        missing: how many letters more there are.
    """

    role: str
    short: str | None
    text: str
    missing: int


def pick(
    positions: np.ndarray, test_rows: np.ndarray, cosines: np.ndarray, count: int
) -> list[Pair]:
    """The pairs of highest cosine, no training row twice and, where there are enough, no test row.

    Args:
        positions, test_rows: (m,) int64, the candidates.
        cosines: (m,) floats; ties go to the lower position, then to the lower test row.
        count: how many pairs at most.
    """
    ranked = np.lexsort((test_rows, positions, -cosines))
    candidates = [Pair(int(positions[i]), int(test_rows[i]), float(cosines[i])) for i in ranked]
    chosen: list[Pair] = []
    for again in (False, True):
        for pair in candidates:
            new = all(pair.position != other.position for other in chosen)
            free = again or all(pair.test_row != other.test_row for other in chosen)
            if len(chosen) < count and new and free:
                chosen.append(pair)
    return sorted(chosen, key=lambda pair: -pair.cosine)


def passages(instance: Instance) -> list[Passage]:
    """The turns of an instance; the last may be its answer."""
    last = len(instance.turns) - 1 if instance.answered else None
    return [
        cut(turn.role, turn.text, ANSWER if i == last else SHORT)
        for i, turn in enumerate(instance.turns)
    ]


def cut(role: str, text: str, limit: int) -> Passage:
    """`text` and its first `limit` letters, at a space where one is near."""
    text = text.strip()
    whole = text[:LONGEST]
    missing = len(text) - len(whole)
    # A beginning that leaves out a word or two is not worth a click.
    if len(text) <= 1.2 * limit:
        return Passage(role, None, whole, missing)
    space = max(text.rfind(" ", 0, limit), text.rfind("\n", 0, limit))
    end = space if space > 0.8 * limit else limit
    return Passage(role, text[:end].rstrip(), whole, missing)
