"""Examples of a pool that are nearly others: of several the first stays.

An example is a duplicate where its cosine with one that stays, and comes before it, reaches a
threshold; so of those that stay no two are so near, and every duplicate has one that is. This is
what SemDeDup (arXiv 2303.09540) is after, exactly: each example is compared with all that stay, not
with those of its cluster alone.
"""

from typing import NamedTuple

import numpy as np

from zsg_jax.similarity.embeddings import Embeddings
from zsg_jax.similarity.names import check_cosine
from zsg_jax.similarity.search.cosine import cosine_matrix, top_k
from zsg_jax.similarity.search.options import Search

QUERIES = 4096  # examples looked at in one pass over those that stay


class Duplicates(NamedTuple):
    """What was found.

    Attributes:
        rows: (n,) int64, ascending, the duplicates.
        kept: (n,) int64, of each the nearest of those that stay and come before it.
        cosines: (n,) float32, of the two.
    """

    rows: np.ndarray
    kept: np.ndarray
    cosines: np.ndarray


def duplicates(
    pool: Embeddings, threshold: float, *, search: Search = Search(), queries: int = QUERIES
) -> Duplicates:
    """The duplicates of a pool.

    Args:
        pool: (N, D) floats; an all-zero embedding, of cosine 0 with everything, is no duplicate.
        threshold: a cosine above 0, at most 1; rounded to float32, which cosines are, where those
            of equal embeddings may be some 10^-7 below 1.
        search: devices, block size and progress, which counts the examples.
        queries: how many are looked at in one pass; changes memory and speed, never a result.

    Raises:
        UserError: see `top_k`; a threshold out of range.
    """
    check_cosine(f"threshold={threshold}", threshold)
    least, count = np.float32(threshold), len(pool)
    stays = np.zeros(count, bool)
    nearest, cosines = np.full(count, -1), np.full(count, -np.inf, np.float32)
    for start in range(0, count, queries):
        part = np.asarray(pool[start : start + queries])
        here = slice(start, start + len(part))
        if start:
            found = top_k(pool, part, 1, excluded=~stays, search=search.quiet)
            cosines[here], nearest[here] = (one[:, 0] for one in found)
        among = cosine_matrix(part, part, search=search.quiet)
        for place in range(len(part)):
            row = start + place
            before = np.where(stays[start:row], among[:place, place], -np.inf)
            best = int(np.argmax(before)) if place else 0
            # Of equals the first, which stands in an earlier part.
            if place and before[best] > cosines[row]:
                cosines[row], nearest[row] = before[best], start + best
            stays[row] = cosines[row] < least
        search.on_progress(len(part), count)
    rows = np.flatnonzero(~stays)
    return Duplicates(rows, nearest[rows], cosines[rows])
