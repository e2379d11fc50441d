"""Distances of training examples to a test set: how near one is to all test examples at once.

Measures and weights are those of arXiv 2406.11721, similarity measures. The distance of two
examples is -cos of their embeddings, from -1 to 1; or, as the study's alternative, the Euclidean
one of the two at length one, from 0 to 2. The latter is sqrt(2 - 2·cos), which rises wherever -cos
rises: nearest and farthest, TMTA's turns and an order by minimum or by maximum are the same under
both. Averages, and what is made of them, differ.
"""

from typing import NamedTuple

import numpy as np

from zsg_jax.runtime.errors import check
from zsg_jax.similarity.embeddings import Embeddings
from zsg_jax.similarity.names import check_distance
from zsg_jax.similarity.search.cosine import RowStatistics, row_statistics
from zsg_jax.similarity.search.options import Search

NOISE = 1e-6  # a mean distance below it is rounding of float32


class Distances(NamedTuple):
    """Distance of each training example over the test examples; each field is (N,).

    Of dtype float32 for the cosine, float64 for Euclidean ones: in float32 some twenty neighbouring
    cosines would give one distance. The Euclidean average is known to float32's digits only.
    """

    minimum: np.ndarray
    maximum: np.ndarray
    average: np.ndarray


class WeightedDistance(NamedTuple):
    """A weighted sum of distances, and the weights that were used.

    Attributes:
        distance: (N,) float64.
        w_min: weight of the minimum.
        w_avg: weight of the average, () float64, or (groups,) where each group has its own.
    """

    distance: np.ndarray
    w_min: float
    w_avg: np.ndarray


def distances(
    train: Embeddings,
    test: Embeddings,
    *,
    distance: str = "cosine",
    search: Search = Search(),
) -> Distances:
    """Minimum, maximum and average distance of every training example over the test examples.

    Args:
        train: (N, D) floats of any length; an all-zero embedding is at right angles to everything,
            so that its distance is 0 or, Euclidean, sqrt(2).
        test: (T, D) floats, T at least 1.
        distance: "cosine" or "euclidean"; see the module.
        search: devices, block size and progress; never a matter of the result.

    Raises:
        UserError: an unknown distance, an empty test set, a NaN or an infinity, wrong ranks or
            dtypes, unequal D.
    """
    check_distance(distance)
    return of_statistics(row_statistics(train, test, search=search), distance)


def of_statistics(found: RowStatistics, distance: str) -> Distances:
    """The distances that cosines over the test examples amount to."""
    if distance == "euclidean":
        return Distances(
            euclidean(found.maximum), euclidean(found.minimum), found.euclidean.astype(np.float64)
        )
    # 0 - x has no negative zero, where -x has one.
    return Distances(0 - found.maximum, 0 - found.minimum, 0 - found.mean)


def euclidean(cosine: np.ndarray) -> np.ndarray:
    """Euclidean distance of unit vectors with these cosines, sqrt(max(0, 2 - 2·cos)), float64.

    A cosine is off by some 1e-6 at most (384 columns), and a distance by that over itself: 1e-6 at
    1, but 1e-4 at 0.01, and what lies below 0.0015 cannot be told from 0. Cosines that rounding
    put at or above 1 have distance 0.
    """
    return np.sqrt(np.maximum(2 - 2 * np.asarray(cosine, np.float64), 0))


def wsd(
    minimum: np.ndarray,
    average: np.ndarray,
    *,
    w_min: float = 1.0,
    w_avg: float | None = None,
    groups: np.ndarray | None = None,
) -> WeightedDistance:
    """Weighted Similarity Distance, WSD = w_min·MD + w_avg·AD (arXiv 2406.11721), in float64.

    The default `w_avg` is the study's, mean(MD) / mean(AD): both terms then weigh alike. As in the
    study, it is negative where the two means differ in sign, which Euclidean ones never do. Where
    mean(AD) is 0 (to 1e-6) no weight can do that, and `w_avg` is 0: the minimum alone decides.

    Args:
        minimum: (N,) floats, MD, each example's minimum distance.
        average: (N,) floats, AD, each example's average distance.
        w_min: weight of MD.
        w_avg: weight of AD; None for the default.
        groups: (N,) int64, each example's group, numbered from 0 without gaps, if the default is
            to be taken over the examples of a group alone.

    Raises:
        UserError: lengths that differ, or a weight or distance that is not finite.
    """
    minimum, average = np.asarray(minimum, np.float64), np.asarray(average, np.float64)
    check(
        minimum.ndim == 1 and minimum.shape == average.shape,
        f"WSD: minimum is {minimum.shape} and average is {average.shape}; both must be (N,)",
    )
    check(
        bool(np.isfinite(minimum).all() and np.isfinite(average).all()),
        "WSD: a distance is a NaN or an infinity; check the embeddings",
    )
    weight = np.array(0.0 if w_avg is None else w_avg, np.float64)
    if w_avg is None and groups is None and len(minimum):
        weight = _balance(minimum.mean(), average.mean())
    elif w_avg is None and groups is not None:
        counts = np.bincount(groups)
        weight = _balance(*(np.bincount(groups, each) / counts for each in (minimum, average)))
    check(
        bool(np.isfinite(w_min) and np.isfinite(weight).all()),
        f"WSD: w_min={w_min} and w_avg={weight} must be finite; give w_avg",
    )
    weighted = w_min * minimum + (weight[groups] if weight.ndim else weight) * average
    return WeightedDistance(weighted, float(w_min), weight)


def _balance(minimum: np.ndarray, average: np.ndarray) -> np.ndarray:
    """The weights of these average distances by which they weigh as much as the minimum ones."""
    nothing = np.zeros(np.shape(minimum))
    return np.divide(minimum, average, out=nothing, where=np.abs(average) > NOISE)
