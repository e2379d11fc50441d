"""Whose turn it is to choose, where test examples stand in several sets that share what is chosen.

The next is always the set that has least of its share: the smallest number of training examples
that it has chosen by its share, of equals the first. So of n examples that were chosen one by one
no set has more than its part of n and one besides, unless others have their budgets.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from zsg_jax.data.mixture import TargetSet


class Shares:
    """What each set has chosen so far.

    Attributes:
        members: of each set its test examples, (t,) int64 ascending.
        chosen: of each set the training examples that it has chosen, in their order.
    """

    def __init__(self, sets: Sequence[TargetSet], index: np.ndarray) -> None:
        """Takes the sets, and of each test example the number of its set, (T,)."""
        self.members = [np.flatnonzero(index == number) for number in range(len(sets))]
        self.chosen: list[list[int]] = [[] for _ in sets]
        self._budgets = [one.budget for one in sets]
        # By whole numbers: an example of a set counts as much as its share is small.
        common = math.lcm(*(one.share.numerator for one in sets))
        self._cost = [common // one.share.numerator * one.share.denominator for one in sets]

    @classmethod
    def of_one(cls, tests: int) -> "Shares":
        """All test examples as one set."""
        return cls([TargetSet("", Fraction(1), None)], np.zeros(tests, np.int32))

    def next(self) -> int | None:
        """The set whose turn it is; None where each has its budget, or no test example."""
        best, least = None, math.inf
        for number, members in enumerate(self.members):
            taken, budget = len(self.chosen[number]), self._budgets[number]
            may = len(members) > 0 and (budget is None or taken < budget)
            if may and taken * self._cost[number] < least:
                best, least = number, taken * self._cost[number]
        return best

    def choose(self, own: Sequence[Iterator[int]], wanted: int) -> list[int]:
        """Lets the sets choose in turns, each the first of its own that no other has chosen.

        Args:
            own: of each set training examples, as it would choose them; asked for when they are
                needed, and at least `wanted` of them.
            wanted: examples in all; where every set has its budget there are fewer.
        """
        order, taken = list[int](), set[int]()
        while len(order) < wanted and (number := self.next()) is not None:
            row = next(row for row in own[number] if row not in taken)
            taken.add(row)
            order.append(row)
            self.chosen[number].append(row)
        return order

    def numbers(self, rows: int) -> np.ndarray:
        """(rows,) int64: of each training example the set that has chosen it, or -1."""
        found = np.full(rows, -1)
        for number, chosen in enumerate(self.chosen):
            found[chosen] = number
        return found


def weights(sets: Sequence[TargetSet], index: np.ndarray) -> np.ndarray:
    """(T,) float64, what a test example counts, so that sets together count by their shares.

    That of its set, parted among the test examples of the set; the largest is 1.
    """
    counts = np.bincount(index, minlength=len(sets))
    each = [one.share / int(n) if n else Fraction(0) for one, n in zip(sets, counts, strict=True)]
    return np.array([float(one / max(each)) for one in each])[index]
