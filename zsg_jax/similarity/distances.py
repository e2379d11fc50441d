"""Distances of training rows to a test set, d = -cos: how near a row is to all test rows at once.

Measures and weights are those of arXiv 2406.11721, similarity measures. They lie between -1, the
same direction as every test row, and 1, the opposite one, but for weighted sums.
"""

from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from zsg_jax.errors import check
from zsg_jax.similarity.cosine import row_statistics
from zsg_jax.similarity.rows import HOST_ROWS, check_pair, checked, unit_block


class Distances(NamedTuple):
    """Distance of each training row over the test rows; each field is (N,) float32."""

    minimum: np.ndarray
    maximum: np.ndarray
    average: np.ndarray


class WeightedDistance(NamedTuple):
    """A weighted sum of distances, and the weights that were used.

    Attributes:
        distance: (N,) float64.
        w_min, w_avg: weights of the minimum and of the average.
    """

    distance: np.ndarray
    w_min: float
    w_avg: float


def distances(
    train: np.ndarray, test: np.ndarray, *, mesh: Mesh | None = None, block_rows: int = 8192
) -> Distances:
    """Minimum, maximum and average distance of every training row over the test rows.

    Args:
        train: (N, D) floats, any length of row; an all-zero row has distance 0 to everything.
        test: (T, D) floats, T at least 1.
        mesh, block_rows: as `cosine_matrix` takes them; they never change a bit of the result.

    Raises:
        UserError: an empty test set, a NaN or an infinity, wrong ranks or dtypes, unequal D.
    """
    cosines = row_statistics(train, test, mesh=mesh, block_rows=block_rows)
    # 0 - x has no negative zero, where -x has one.
    return Distances(0 - cosines.maximum, 0 - cosines.minimum, 0 - cosines.mean)


def wsd(
    minimum: np.ndarray, average: np.ndarray, *, w_min: float = 1.0, w_avg: float | None = None
) -> WeightedDistance:
    """Weighted Similarity Distance, WSD = w_min·MD + w_avg·AD (arXiv 2406.11721), in float64.

    The default `w_avg` is the study's, mean(MD) / mean(AD): both terms then weigh alike. As in the
    study, it is negative where the two means differ in sign. Where mean(AD) is 0 no weight can do
    that, and `w_avg` is 0: the minimum alone decides.

    Args:
        minimum: (N,) floats, MD, each row's minimum distance.
        average: (N,) floats, AD, each row's average distance.
        w_min: weight of MD.
        w_avg: weight of AD; None for the default.

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
    if w_avg is None:
        mean = average.mean() if len(average) else 0.0
        w_avg = float(minimum.mean() / mean) if mean else 0.0
    check(
        bool(np.isfinite([w_min, w_avg]).all()),
        f"WSD: w_min={w_min} and w_avg={w_avg} must be finite; give w_avg",
    )
    return WeightedDistance(w_min * minimum + w_avg * average, float(w_min), float(w_avg))


def centroid_distance(train: np.ndarray, test: np.ndarray) -> float:
    """Distance between two sets' mean unit rows (arXiv 2406.11721), computed in float64.

    Args:
        train: (N, D) floats, N at least 1.
        test: (T, D) floats, T at least 1.

    Returns:
        -cos of the means; 0 where one of them is zero.

    Raises:
        UserError: an empty set, a NaN or an infinity, wrong ranks or dtypes, unequal D.
    """
    train, test = check_pair(train, test)
    means = []
    for what, rows in (("train", train), ("test", test)):
        check(len(rows) > 0, f"centroid distance: {what} is empty: it has no centroid")
        means.append(group_means(rows, np.zeros(len(rows), np.int64), what)[0])
    lengths = np.linalg.norm(means[0]) * np.linalg.norm(means[1])
    return float(0 - means[0] @ means[1] / lengths) if lengths else 0.0


def group_means(rows: np.ndarray, groups: np.ndarray, what: str = "rows") -> np.ndarray:
    """Mean of the unit rows of each group.

    Args:
        rows: (N, D) floats, any length of row.
        groups: (N,) int64, each row's group, numbered from 0 without gaps.
        what: the array's name in error messages.

    Returns:
        (groups, D) float64, not of unit length.

    Raises:
        UserError: lengths that differ, a NaN or an infinity, wrong rank or dtype.
    """
    rows = checked(rows, what)
    check(groups.shape == (len(rows),), f"{what}: {len(rows)} rows, but groups are {groups.shape}")
    counts = np.bincount(groups)
    sums = np.zeros((len(counts), rows.shape[1]))
    for start in range(0, len(rows), HOST_ROWS):
        block = rows[start : start + HOST_ROWS]
        unit = unit_block(block, what, range(start, len(rows)))
        np.add.at(sums, groups[start : start + len(block)], unit)
    return sums / counts[:, None]
