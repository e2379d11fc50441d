"""What sets of test examples choose and are given: as facts of an arrangement, and in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.method import Method
from zsg_jax.arrangement.methods import by_sets, parse
from zsg_jax.arrangement.shares import weights
from zsg_jax.arrangement.subsets import first_half
from zsg_jax.runtime.progress import count


def of_sets(name: str, comparison: Comparison, order: np.ndarray) -> dict[str, Any]:
    """The sets of a comparison, as JSON values; nothing where there are none.

    By name: `share`, `budget`, `test_rows`; `nearest`, the mean over these of the cosine with the
    nearest of the training examples. Where sets choose by the method, `rows`, how many each has
    chosen, and `similarity`, the mean of their cosines with the nearest of its test examples; where
    they are weighed, `weight`, what one of its test examples counts. And what else decides the
    order toward a set alone. None stands for a mean over nothing.

    Args:
        name: of the method that has arranged the comparison.
        order: (n,) int64, the training examples that are looked at.
    """
    if comparison.set_index is None:
        return {}
    method, index = parse(name, 0)[0], comparison.set_index
    numbers = _choosers(method, comparison)
    weight = weights(comparison.sets, index)
    told: dict[str, dict[str, Any]] = {}
    for number, one in enumerate(comparison.sets):
        tests = np.flatnonzero(index == number)
        told[one.name] = facts = {
            "share": str(one.share),
            "budget": one.budget,
            "test_rows": len(tests),
            "nearest": _mean(comparison, order, tests, of_tests=True),
        }
        if method.chosen_by:
            rows = order[numbers[order] == number]
            facts["rows"] = len(rows)
            facts["similarity"] = _mean(comparison, rows, tests, of_tests=False)
        if method.weighed:
            facts["weight"] = float(weight[tests[0]]) if len(tests) else None
        if method.criterion and by_sets(method, comparison):
            alone = comparison.parts[number]
            facts |= {} if alone is None else method.criterion.facts(alone)
    return {"target_sets": told}


def _choosers(method: Method, comparison: Comparison) -> np.ndarray:
    """(N,) int64, of each training example the set that has chosen it, or -1."""
    found = [comparison.shares[what].numbers(len(comparison)) for what in method.chosen_by]
    if len(found) < 2:
        return found[0] if found else np.full(len(comparison), -1)
    # Of two halves the one decides in which an example stands; both may have named it.
    first = first_half(getattr(comparison, method.chosen_by[0]), comparison.wanted)
    return np.where(np.isin(np.arange(len(comparison)), first.order), *found)


def _mean(
    comparison: Comparison, rows: np.ndarray, tests: np.ndarray, *, of_tests: bool
) -> float | None:
    """The mean cosine of test examples with their nearest training examples, or of these."""
    if not len(rows) or not len(tests):
        return None
    return float(comparison.served(np.sort(rows), tests)[of_tests].mean(dtype=np.float64))


def sets_words(facts: Mapping[str, Any]) -> dict[str, str]:
    """A line about each set, by what it is of; of facts that hold what `of_sets` gives.

    A method in which they have no say is told so first; {} where there are no sets.
    """
    sets = facts.get("target_sets", {})
    told = {f"target set {name}": _words(one) for name, one in sets.items()}
    if not sets or any("rows" in one or "weight" in one for one in sets.values()):
        return told
    return {"target sets": "their shares have no say in it"} | told


def sets_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """What `sets_words` gives, as a page has its facts: each begins with a capital."""
    return {of[0].upper() + of[1:]: told for of, told in sets_words(facts).items()}


def _words(one: Mapping[str, Any]) -> str:
    parts = list[str]()
    if "rows" in one:
        cosine = f", mean cosine {one['similarity']:.4f}" if one["rows"] else ""
        parts.append(f"{count(one['rows'], 'row')}{cosine}")
    if one.get("weight") is not None:
        parts.append(f"each of its test rows counts {one['weight']:.3g}")
    if one["nearest"] is not None:
        parts.append(f"its test rows have a nearest one of cosine {one['nearest']:.4f} in the mean")
    return "; ".join(parts) or "no test row"
