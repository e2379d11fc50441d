"""Choosing one after the other what adds most, where what an example adds can only fall."""

import heapq
from collections.abc import Callable, Iterator

import numpy as np


def greedily(bounds: np.ndarray, gain: Callable[[int], int]) -> Iterator[tuple[int, int]]:
    """Examples in the order in which they are chosen, each with what it adds.

    Lazily (Minoux, 1978): an example is looked at again only when what it would have added when it
    was last looked at is more than any other can add, so that most need not be.

    Args:
        bounds: (N,) int64, of each example no less than it would add now.
        gain: gives what an example adds to those that have been chosen, which whoever takes the
            examples keeps count of; never more than it gave before.

    Yields:
        Index and gain, of equal gains the lower index, until all N are chosen.
    """
    left = [(-bound, row) for row, bound in enumerate(bounds.tolist())]
    heapq.heapify(left)
    while left:
        _, row = heapq.heappop(left)
        while True:
            found = gain(row)
            _, next_row = heapq.heappushpop(left, (-found, row))
            if next_row == row:
                break
            row = next_row
        yield row, found
