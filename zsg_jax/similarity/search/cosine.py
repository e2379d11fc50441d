"""Cosines between training and test embeddings: float32, in blocks, over a mesh.

Orders are decided by comparing these numbers, so the cosine of one training and one test embedding
has the same bits whichever function, block size, number of devices or neighbours it is computed
with; `stream` says how.
"""

import numpy as np

from zsg_jax.runtime.errors import check
from zsg_jax.similarity.embeddings import Embeddings, unit_embeddings
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.search.scan import scan, whole_matrix
from zsg_jax.similarity.search.stream import RowStatistics, Stream

__all__ = ["RowStatistics", "cosine_matrix", "row_statistics", "scan", "top_k", "unit_embeddings"]


def cosine_matrix(train: Embeddings, test: Embeddings, *, search: Search = Search()) -> np.ndarray:
    """All cosines at once, for small sets.

    Args:
        train: (N, D) floats of any length.
        test: (T, D) floats.
        search: devices, block size and progress.

    Returns:
        (N, T) float32.

    Raises:
        UserError: see `unit_embeddings`; or the two differ in D.
    """
    return whole_matrix(Stream(train, test, None, search), len(test))


def row_statistics(
    train: Embeddings, test: Embeddings, *, search: Search = Search()
) -> RowStatistics:
    """Smallest, largest, mean cosine of every training example, and its mean Euclidean distance.

    Arguments and errors are those of `cosine_matrix`; an empty test set is refused too.
    """
    found = scan(train, test, statistics=True, search=search)
    assert found.statistics is not None
    return found.statistics


def top_k(
    train: Embeddings,
    test: Embeddings,
    k: int,
    *,
    farthest: bool = False,
    excluded: np.ndarray | None = None,
    search: Search = Search(),
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest (or farthest) training examples of every test example, best first.

    Equal cosines go to the lower index.

    Args:
        train: (N, D) floats of any length; an all-zero embedding has cosine 0 with everything.
        test: (T, D) floats.
        k: length of the lists, at least 1.
        farthest: smallest cosine first instead of largest first.
        excluded: (N,) bool, what to pass over as if it were not there; the fewer the rest, the
            less work.
        search: devices, block size and progress.

    Returns:
        Cosines (T, k) float32 and indices (T, k) int64. Where fewer than k remain, the list ends
        in index -1 with a cosine of -inf (inf if `farthest`).

    Raises:
        UserError: see `cosine_matrix`; k below 1; `excluded` of another shape or dtype.
    """
    check(k >= 1, f"k={k}: a list needs a length of at least 1")
    found = scan(
        train,
        test,
        nearest=0 if farthest else k,
        farthest=k if farthest else 0,
        excluded=excluded,
        search=search,
    )
    lists = found.farthest if farthest else found.nearest
    assert lists is not None
    return lists
