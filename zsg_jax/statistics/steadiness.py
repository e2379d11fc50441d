"""How steadily a score goes along training: what "loss is the steadier measure" means in numbers.

The paper says it of its figures (arXiv 2406.11721, section 3); the two numbers are our own.
"""

from typing import NamedTuple

import numpy as np

SMOOTHING = 5  # points that the smoothed curve averages


class Steadiness(NamedTuple):
    """Both are 0 for a curve that only falls or only rises, smoothly; lower is steadier.

    Attributes:
        against: share of the steps between evaluations in which the score moves against the
            smoothed curve's direction there.
        noise: standard deviation about the smoothed curve, as a share of that curve's range.
    """

    against: float
    noise: float


def steadiness(values: np.ndarray) -> Steadiness | None:
    """The steadiness of `values` (S,), a score at S evaluations one after another.

    None for fewer than `SMOOTHING` finite values, or a curve that does not move at all.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if len(values) < SMOOTHING:
        return None
    smooth = running_mean(values, SMOOTHING)
    span = np.ptp(smooth)
    if span == 0:
        return None
    moves, trend = np.diff(values), np.diff(smooth)
    return Steadiness(
        float((moves * trend < 0).mean()), float(np.sqrt(np.mean((values - smooth) ** 2)) / span)
    )


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of `values` (S,) over the odd `window` about each place, symmetric, shorter at ends."""
    at = np.arange(len(values))
    half = np.minimum(window // 2, np.minimum(at, len(values) - 1 - at))
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)
