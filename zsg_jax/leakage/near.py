"""Finds the training examples whose embedding is nearly that of a test example, in all pairs.

Most training examples are near no test example: one pass for the largest cosine of each leaves the
few for which every cosine is worth having.
"""

from collections.abc import Iterator

import numpy as np

from zsg_jax.leakage.text import LeakingPairs
from zsg_jax.runtime.errors import check
from zsg_jax.similarity.embeddings import Embeddings
from zsg_jax.similarity.search.cosine import cosine_matrix, row_statistics
from zsg_jax.similarity.search.options import Search

NEAR = "near"
CELLS = 1 << 25  # cosines held at a time
PAIRS = 1 << 20  # pairs listed at a time


def near_pairs(
    train: Embeddings,
    test: Embeddings,
    *,
    threshold: float = 0.95,
    largest: np.ndarray | None = None,
    search: Search = Search(),
) -> Iterator[LeakingPairs]:
    """All pairs whose cosine is `threshold` or more, in blocks, by training, then by test example.

    The threshold is rounded to float32, which the cosines are; a rounding keeps some equal ones a
    few 10^-7 below 1. Embeddings of zeros, which empty texts give, have cosine 0 with everything.

    Args:
        train: (N, D) floats, or what gives them by a slice or by ascending int64 indices.
        test: (T, D) floats.
        threshold: as `LeakageOptions` has it.
        largest: (N,) float32, each training example's largest cosine, where `row_statistics` has
            already been run on these; None runs it.
        search: devices and block size; they never change a pair.

    Raises:
        UserError: see `cosine_matrix`; `largest` of another shape.
    """
    if not len(train) or not len(test):
        return
    if largest is None:
        largest = row_statistics(train, test, search=search.quiet).maximum
    check(largest.shape == (len(train),), f"largest: {largest.shape}; it must be ({len(train)},)")
    least = np.float32(threshold)
    flagged = np.flatnonzero(largest >= least)
    block = max(1, min(CELLS // len(test), 8 * search.block_size))
    part = max(1, PAIRS // len(test))
    for start in range(0, len(flagged), block):
        near = flagged[start : start + block]
        cosines = cosine_matrix(train[near], test, search=search.quiet)
        for top in range(0, len(near), part):
            at, column = np.nonzero(cosines[top : top + part] >= least)
            if len(at):
                yield LeakingPairs(NEAR, near[top + at], column, cosines[top + at, column])
