"""Orders made from an order: what stands behind + in "min-nft+folds-4".

A curriculum over the whole pool at once shows each kind of example in one stretch of the training
alone. Folds and zigzags walk through it several times instead, every time by other examples of it;
a window keeps the course and takes the exact order away; stages keep half of it, and mix examples
of the whole course into each stretch. The first so many are a part of an order, to the example,
where a budget of turns would end with a whole one.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.permutations import generator
from zsg_jax.runtime.errors import UserError


def folds(n: int, parts: int) -> np.ndarray:
    """(n,) int64: every `parts`-th from the first on, then from the second on, and so forth."""
    return np.concatenate(_interleaved(n, parts))


def zigzag(n: int, parts: int) -> np.ndarray:
    """`folds`, of which every other one goes backward."""
    each = enumerate(_interleaved(n, parts))
    return np.concatenate([one[::-1] if odd % 2 else one for odd, one in each])


def _interleaved(n: int, parts: int) -> list[np.ndarray]:
    return [np.arange(first, n, parts) for first in range(parts)]


def window(n: int, size: int, seed: int) -> np.ndarray:
    """(n,) int64: each `size` in a row shuffled among themselves."""
    return np.lexsort((generator(seed).random(n), np.arange(n) // size))


def stages(n: int, parts: int, seed: int) -> np.ndarray:
    """(n,) int64: of `parts` equal stretches a half each stays, the rest is dealt to all alike.

    Which half, and in what order the examples of a stage stand, is drawn.
    """
    random = generator(seed)
    stage = np.arange(n) * parts // max(1, n)
    dealt = np.lexsort((random.random(n), stage))[1::2]
    stage[dealt] = np.arange(len(dealt)) % parts
    return np.lexsort((random.random(n), stage))


class Reordering(NamedTuple):
    """Another order of the same examples, or of some of them.

    Attributes:
        places: gives it of how many there are, the number in its name, and a seed.
        shuffles: whether the seed matters.
        usage: what to write.
        cuts: whether it leaves some out.
    """

    places: Callable[[int, int, int], np.ndarray]
    shuffles: bool
    usage: str
    cuts: bool = False

    def __call__(self, arrangement: Arrangement, number: int, seed: int) -> Arrangement:
        """The examples in this order, each with its turn."""
        index = self.places(len(arrangement), number, seed)
        return Arrangement(arrangement.order[index], arrangement.turn[index])


REORDERINGS = {
    "folds": Reordering(
        lambda n, parts, seed: folds(n, parts), False, "+folds-K goes K times through the order"
    ),
    "zigzag": Reordering(
        lambda n, parts, seed: zigzag(n, parts),
        False,
        "+zigzag-K goes K times through the order, every other time backward",
    ),
    "first": Reordering(
        lambda n, size, seed: np.arange(min(n, size)),
        False,
        "+first-K keeps the first K rows",
        cuts=True,
    ),
    "window": Reordering(window, True, "+window-K shuffles every K rows among themselves"),
    "stages": Reordering(
        stages, True, "+stages-K goes through it in K mixtures, half of each from all of the order"
    ),
}
SUFFIXES = tuple(f"+{name}-K" for name in REORDERINGS)


def find(suffix: str, name: str) -> tuple[Reordering, int]:
    """The reordering that "folds-4" of the method `name` stands for, and its number.

    Raises:
        UserError: it is none, or its number is below 2.
    """
    found = re.fullmatch(r"([a-z]+)-([1-9][0-9]{0,8})", suffix)
    if not found or found[1] not in REORDERINGS or int(found[2]) < 2:
        usages = "; ".join(one.usage for one in REORDERINGS.values())
        raise UserError(f"{name!r}: behind + stands what reorders a method: {usages}; K ≥ 2")
    return REORDERINGS[found[1]], int(found[2])
