"""Where a curve rises: a logistic in log n, its midpoint with an interval over seeds."""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

# A curve that never gets so high has no transition to speak of.
RISEN = 0.1
_DRAWS = 1000
# What lies between these shares of the top is on the way up.
_FOOT, _HEAD = 0.1, 0.9


class Transition(NamedTuple):
    """values = top / (1 + (midpoint / n)^slope).

    Attributes:
        midpoint: n at half of the top.
        slope: how sudden it is, in powers of n.
        top: where the curve ends, at most 1.
        low, high: of the midpoint, 95 % over draws of seeds; None for one seed.
        between: two n in a row between which all of the rise lies, so that any midpoint there and
            any steeper slope fit as well: `low` and `high` are at least as far apart; None: some n
            was on the way up.
    """

    midpoint: float
    slope: float
    top: float
    low: float | None = None
    high: float | None = None
    between: tuple[float, float] | None = None


def logistic(n: np.ndarray, midpoint: float, slope: float, top: float) -> np.ndarray:
    """The curve at n."""
    return top / (1 + np.exp(-slope * (np.log(n) - np.log(midpoint))))


def transition(values: Mapping[int, Mapping[int, float]]) -> Transition | None:
    """Fits the transition of shares that are 0 for small n and settle for large ones.

    Least squares on the means over seeds. The interval is the percentile bootstrap: seeds are drawn
    with replacement, the same for every n.

    Args:
        values: n → seed → share from 0 to 1.

    Returns:
        None where there are fewer than three n, no mean passes `RISEN`, or all do, or the fitted
        midpoint lies beyond the n that were tried: its top was never seen then.
    """
    n = np.array(sorted(values), np.float64)
    seeds = (
        sorted(set.intersection(*(set(by_seed) for by_seed in values.values()))) if values else []
    )
    if len(n) < 3 or not seeds:
        return None
    table = np.array([[values[int(one)][seed] for one in n] for seed in seeds], np.float64)
    means = table.mean(axis=0)
    if means.max() < RISEN or means.min() >= RISEN:
        return None
    fitted = _fit(n, means)
    if not n[0] <= fitted[0] <= n[-1]:
        return None
    between = _between(n, means / fitted[2])
    if len(seeds) == 1:
        low, high = between or (None, None)
        return Transition(*fitted, low, high, between)
    rng = np.random.default_rng(0)
    drawn = np.sort(rng.integers(0, len(seeds), (_DRAWS, len(seeds))), axis=1)
    # Of few seeds there are few different draws.
    different, counts = np.unique(drawn, axis=0, return_counts=True)
    middles = [_fit(n, table[one].mean(axis=0))[0] for one in different]
    low, high = map(float, np.percentile(np.repeat(middles, counts), [2.5, 97.5]))
    if between is not None:
        low, high = min(low, between[0]), max(high, between[1])
    return Transition(*fitted, low, high, between)


def _between(n: np.ndarray, shares: np.ndarray) -> tuple[float, float] | None:
    """The two n between which shares of the top go from foot to head, with none in between."""
    (above,) = np.nonzero(shares >= _HEAD)
    first = above[0] if above.size else 0
    if not first or shares[:first].max() > _FOOT:
        return None
    return float(n[first - 1]), float(n[first])


def _fit(n: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Midpoint, slope and top; of a curve that comes down again, the better of two beginnings."""
    top = min(max(values.max(), 0.02), 1.0)
    log_n = np.log(n)
    first = float(np.interp(top / 2, np.maximum.accumulate(values), log_n))
    last = float(np.interp(-top / 2, -np.minimum.accumulate(values[::-1]), log_n[::-1]))
    halves = [first] if abs(last - first) < 1e-6 else [first, last]
    found = [_least_squares(log_n, values, half, top) for half in halves]
    middle, slope, top = min(
        found, key=lambda one: float(np.sum((_curve(log_n, *one) - values) ** 2))
    )
    return float(np.exp(middle)), slope, top


def _curve(log_n: np.ndarray, middle: float, slope: float, top: float) -> np.ndarray:
    return top / (1 + np.exp(-slope * (log_n - middle)))


def _least_squares(
    log_n: np.ndarray, values: np.ndarray, half: float, top: float
) -> tuple[float, float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # its covariance is not asked for
        found, _ = curve_fit(
            _curve,
            log_n,
            values,
            p0=(half, 4.0, top),
            bounds=((log_n[0] - 3, 0.1, 0.01), (log_n[-1] + 3, 40.0, 1.0)),
            max_nfev=5000,
        )
    return float(found[0]), float(found[1]), float(found[2])
