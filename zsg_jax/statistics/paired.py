"""Paired differences of what was measured on the same examples, each with an interval and a p."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, t

from zsg_jax.runtime.errors import check
from zsg_jax.statistics.errors import standard_error


class Difference(NamedTuple):
    """The mean of `first` less the mean of `second`, over the same examples and seeds.

    Attributes:
        low, high: the interval that holds the true difference in 95 % of cases.
        p: how often a difference as large would come by chance, two-sided.
        p_holm: the same, corrected by Holm's rule for all pairs that were compared.
        detectable: the smallest difference that so many examples would show in 80 % of cases.
        seeds: how many of either; with one, nothing is known of the noise of training.
    """

    first: str
    second: str
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    detectable: float
    seeds: int


def paired_differences(
    values: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    clusters: Sequence[str] | None = None,
) -> list[Difference]:
    """Pairs of `values` compared by Student's t, where seeds and examples stand for others.

    The variance of a difference is that of its seeds' means plus that of its examples' means (what
    both share is counted twice, so it is rather too large), the interval that of t, with degrees of
    freedom by Welch and Satterthwaite. Of three seeds that agree a bootstrap holds no draw on the
    other side of 0, which comes by chance in a quarter of all cases; t knows that three are few.
    Where all differ by the same, as few answers that are right or wrong may, p is the sign test's.

    Args:
        values: name → (K, N), a number for every seed and example; the same seeds and examples
            for all names. Of a single seed the examples' error alone is known, and the other way
            round.
        pairs: names to compare, for all of which p is corrected; without it, all there are.
        clusters: the task of every example, where whole tasks stand for others, since examples of
            a task are alike.

    Returns:
        one for each of `pairs`, in their order.

    Raises:
        UserError: shapes differ, a value is not finite, or one seed meets one example.
    """
    arrays = _arrays(values)
    found = []
    for first, second in combinations(arrays, 2) if pairs is None else pairs:
        gap = arrays[first] - arrays[second]
        seeds, count = gap.shape
        units = count if clusters is None else len(set(clusters))
        check(max(seeds, units) > 1, "of one seed and one example nothing tells the error")
        parts = []
        if units > 1:
            parts.append((standard_error(gap.mean(axis=0), clusters), units - 1))
        if seeds > 1:
            parts.append((standard_error(gap.mean(axis=1)), seeds - 1))
        variance = sum(error**2 for error, _ in parts)
        fourth = sum(error**4 / degrees for error, degrees in parts)
        freedom = variance**2 / fourth if fourth else 1.0
        error, mean = variance**0.5, float(gap.mean())
        half = float(t.ppf(0.975, freedom)) * error
        if error > 1e-12 * abs(mean):
            p = 2 * float(t.sf(abs(mean) / error, freedom))
        else:  # all differ alike, so t knows no noise: as often as all are on one side by chance
            p = 2.0 ** (1 - max(seeds, units)) if mean else 1.0
        seen = float(t.ppf(0.975, freedom) + t.ppf(0.8, freedom)) * error
        found.append((first, second, mean, mean - half, mean + half, p, seen, seeds))
    corrected = holm([one[5] for one in found])
    return [
        Difference(*one[:6], p_holm, *one[6:]) for one, p_holm in zip(found, corrected, strict=True)
    ]


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """McNemar's exact two-sided p of two arrays of right and wrong, of the same examples.

    Only examples that one answers right and the other wrong count: were both as good, either
    would be the right one in half of them (binomial). Of several seeds or samples an example is
    the win of the one that answers it right more often, one trial in any case.

    Args:
        first, second: (N,) right or wrong, or (K, N), a row a seed.

    Returns:
        p; 1 where they never differ.
    """
    gap = np.atleast_2d(np.asarray(first, np.float64) - np.asarray(second, np.float64)).sum(axis=0)
    # Thirds and the like of several samples do not cancel to the last bit.
    gap = np.round(gap, 6)
    wins, losses = int((gap > 0).sum()), int((gap < 0).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction of several p for their number: the same order, each at most 1."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected.tolist()


def _arrays(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {name: np.atleast_2d(np.asarray(one, np.float64)) for name, one in values.items()}
    shapes = {name: one.shape for name, one in arrays.items()}
    check(
        len(set(shapes.values())) <= 1 and all(np.isfinite(one).all() for one in arrays.values()),
        f"only finite numbers of the same seeds and examples can be compared; given are {shapes}",
    )
    return arrays
