"""The same chosen rows in other orders: what sets the order's effect apart from the choice's.

Turn labels stay with their rows, so a reader sees where each row came from.
"""

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.errors import check


def nearest_first(arrangement: Arrangement) -> Arrangement:
    """Turns forward, rows inside a turn as they stand (NFT under TMTA, arXiv 2406.11721)."""
    return _taken(arrangement, np.argsort(arrangement.turn, kind="stable"))


def farthest_first(arrangement: Arrangement) -> Arrangement:
    """Turns backward, rows inside a turn as they stand (FFT under TMTA, arXiv 2406.11721).

    Not the same as `tmta(..., farthest=True)`, which chooses other rows.
    """
    return _taken(arrangement, np.argsort(-arrangement.turn.astype(np.int64), kind="stable"))


def shuffled(arrangement: Arrangement, seed: int) -> Arrangement:
    """The same rows in random order (RT under TMTA, arXiv 2406.11721); PCG64, seed 0 or above."""
    check(seed >= 0, f"shuffled: seed={seed}; it must not be negative")
    generator = np.random.Generator(np.random.PCG64(seed))
    return _taken(arrangement, generator.permutation(len(arrangement)))


def _taken(arrangement: Arrangement, places: np.ndarray) -> Arrangement:
    return Arrangement(arrangement.order[places], arrangement.turn[places])
