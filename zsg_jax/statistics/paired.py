"""Paired differences of what was measured on the same examples, each with an interval and a p."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest, t

from zsg_jax.runtime.errors import check
from zsg_jax.statistics.errors import detectable, standard_error

SAMPLES = 1000


class Difference(NamedTuple):
    """The mean of `first` less the mean of `second`, over the same examples and seeds.

    Attributes:
        low, high: the interval that holds 95 % of the differences drawn.
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
    *,
    clusters: Sequence[str] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> list[Difference]:
    """Every pair of `values` compared by one bootstrap, with the same draws for all.

    Each draw takes seeds with replacement, and examples with replacement: whole tasks where
    `clusters` tells them, since examples of a task are alike. p = (c + 1) / (samples + 1), c the
    draws whose difference lies as far from the measured one as that lies from 0.

    Args:
        values: name → (K, N), a number for every seed and example; the same seeds and examples
            for all names.
        clusters: the task of every example.

    Raises:
        UserError: shapes differ, or a value is not finite.
    """
    arrays = _arrays(values)
    if len(arrays) < 2:
        return []
    seeds, count = next(iter(arrays.values())).shape
    weights = _weights(seeds, count, clusters, samples, np.random.default_rng(seed))
    means = {name: _means(one, *weights) for name, one in arrays.items()}
    found = []
    for first, second in combinations(arrays, 2):
        gap = arrays[first] - arrays[second]
        drawn, mean = means[first] - means[second], gap.mean()
        far = np.abs(drawn - mean) >= abs(mean)
        low, high = np.quantile(drawn, [0.025, 0.975])
        p = (far.sum() + 1) / (samples + 1)
        error = standard_error(gap.mean(axis=0), clusters)
        found.append((first, second, float(mean), float(low), float(high), float(p), error))
    corrected = holm([one[5] for one in found])
    return [
        Difference(*one[:6], p_holm, detectable(one[6]), seeds)
        for one, p_holm in zip(found, corrected, strict=True)
    ]


def crossed_differences(
    values: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    *,
    clusters: Sequence[str] | None = None,
) -> list[Difference]:
    """Pairs of `values` compared where few seeds stand for many, and so do the examples.

    The variance of a difference is that of its seeds' means plus that of its examples' means (what
    both share is counted twice, so it is rather too large), the interval that of t, with degrees of
    freedom by Welch and Satterthwaite. Of three seeds that agree a bootstrap holds no draw on the
    other side of 0, which comes by chance in a quarter of all cases; t knows that three are few.

    Args:
        values: as `paired_differences` takes them; of a single seed the examples' error alone.
        pairs: names to compare, for all of which p is corrected.
        clusters: the task of every example, where whole tasks stand for others.

    Raises:
        UserError: as `paired_differences`.
    """
    arrays = _arrays(values)
    found = []
    for first, second in pairs:
        gap = arrays[first] - arrays[second]
        seeds, count = gap.shape
        units = count if clusters is None else len(set(clusters))
        parts = [(standard_error(gap.mean(axis=0), clusters), max(units - 1, 1))]
        if seeds > 1:
            parts.append((standard_error(gap.mean(axis=1)), seeds - 1))
        variance = sum(error**2 for error, _ in parts)
        fourth = sum(error**4 / degrees for error, degrees in parts if error)
        freedom = variance**2 / fourth if fourth else 1.0
        error, mean = variance**0.5, float(gap.mean())
        half = float(t.ppf(0.975, freedom)) * error
        p = 2 * float(t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
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


def _weights(
    seeds: int,
    count: int,
    clusters: Sequence[str] | None,
    samples: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """How often every draw took each seed, (samples, K), and each example, (samples, N)."""
    taken = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=samples)
    if clusters is None:
        return taken, rng.multinomial(count, np.full(count, 1 / count), size=samples)
    _, task = np.unique(np.asarray(clusters), return_inverse=True)
    tasks = task.max() + 1
    drawn = rng.multinomial(tasks, np.full(tasks, 1 / tasks), size=samples)
    return taken, drawn[:, task]


def _means(values: np.ndarray, seeds: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """(samples,): the mean of (K, N) `values` over each draw's seeds and examples."""
    sums = np.einsum("sk,kn,sn->s", seeds, values, examples, optimize=True)
    return sums / (seeds.sum(axis=1) * examples.sum(axis=1))
