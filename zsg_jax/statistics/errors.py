"""The error of a mean over examples."""

import math
from collections.abc import Sequence

import numpy as np


def standard_error(values: np.ndarray, clusters: Sequence[str] | np.ndarray | None = None) -> float:
    """The standard error of the mean of `values` (N,); NaN for fewer than two.

    Args:
        clusters: the task of each example. Examples of a task are alike, so their mean knows less
            than N independent ones: their covariances within tasks are added (arXiv 2411.00640,
            section 2.2). Where every example is a task of its own, nothing is.
    """
    values = np.asarray(values, np.float64)
    count = len(values)
    if count < 2:
        return math.nan
    off = values - values.mean()
    variance = (off @ off) / (count - 1) / count
    if clusters is not None:
        _, task = np.unique(np.asarray(clusters), return_inverse=True)
        sums, squares = np.bincount(task, off), np.bincount(task, off * off)
        variance += (sums * sums - squares).sum() / count**2
    return math.sqrt(max(variance, 0.0))
