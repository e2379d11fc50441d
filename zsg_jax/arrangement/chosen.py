"""The methods that choose greedily: for the pool, for the test set, and against copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zsg_jax.arrangement import permutations
from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.method import Method
from zsg_jax.arrangement.needs import Needs

if TYPE_CHECKING:  # the names of methods are known without what compares by them
    from zsg_jax.arrangement.comparison import Comparison


def diverse(number: int) -> Method:
    """So many examples that stand for the whole pool, whatever the test set is."""

    def wanted(comparison: Comparison) -> int:
        return min(number, comparison.wanted)

    return Method(
        lambda c, seed: c.within_budget(c.neighbourhoods.first(wanted(c))),
        facts=lambda c: c.neighbourhoods.facts(wanted(c)),
        of_chosen=True,
        least=number,
    )


def marginal(weight: int) -> Method | None:
    """Near to the test set and unlike what is chosen already, so many hundredths of the former."""

    def facts(comparison: Comparison) -> dict[str, Any]:
        found = comparison.marginal(weight)
        relevance = comparison.cosines.maximum[found.order].mean(dtype=np.float64)
        return {"relevance": float(relevance), "redundancy": float(found.redundancy.mean())}

    if weight > 100:
        return None
    return Method(
        lambda c, seed: c.within_budget(c.marginal(weight).order),
        Needs.STATISTICS,
        facts=facts,
        of_chosen=True,
        chosen_by=(f"mmr-{weight}",),
    )


def _covering(comparison: Comparison, seed: int) -> Arrangement:
    """What covers the test set, as turn 1; then what adds nothing to that, nearest first."""
    first = comparison.covered.order
    rest = np.ones(len(comparison), bool)
    rest[first] = False
    nearest = permutations.by_distance(-comparison.cosines.maximum)
    order = np.concatenate([first, nearest[rest[nearest]]])[: comparison.wanted]
    return Arrangement(order, np.where(np.arange(len(order)) < len(first), 1, 2))


def _covered(comparison: Comparison) -> dict[str, Any]:
    found = comparison.covered
    value = float(found.values[-1])
    return {
        "coverage": value,
        "covered": value / found.most if found.most else 1.0,
        "rows_that_cover": len(found.order),
    }


COVERAGE = Method(
    _covering, Needs.NEAREST | Needs.STATISTICS, facts=_covered, of_chosen=True, weighed=True
)
