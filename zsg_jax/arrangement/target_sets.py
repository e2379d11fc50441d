"""What each set of test examples has chosen: as facts of an arrangement, and in words."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import parse
from zsg_jax.runtime.progress import count


def of_sets(name: str, comparison: Comparison, order: np.ndarray) -> dict[str, Any]:
    """The sets of a comparison, as JSON values; nothing where there are none.

    By name their share, budget and test examples, and, where sets have a say in the method, how
    many of the training examples each of them has chosen, and the mean of their cosines with the
    nearest of its test examples.

    Args:
        name: of the method that has arranged the comparison.
        order: (n,) int64, the training examples that are looked at.
    """
    if not comparison.sets:
        return {}
    chosen_by = parse(name, 0)[0].chosen_by
    numbers = np.full(len(comparison), -1)
    # Of an example that was chosen both ways the first counts.
    for what in reversed(chosen_by):
        found = comparison.shares[what].numbers(len(comparison))
        numbers = np.where(found < 0, numbers, found)
    told: dict[str, dict[str, Any]] = {}
    for number, one in enumerate(comparison.sets):
        tests = np.flatnonzero(comparison.set_index == number)
        told[one.name] = {"share": str(one.share), "budget": one.budget, "test_rows": len(tests)}
        if chosen_by:
            rows = np.sort(order[numbers[order] == number])
            near = comparison.served(rows, tests).mean(dtype=np.float64) if len(rows) else None
            told[one.name] |= {
                "rows": len(rows),
                "similarity": None if near is None else float(near),
            }
    return {"target_sets": told}


def sets_words(facts: Mapping[str, Any]) -> str:
    """What the sets have chosen, of facts that hold what `of_sets` gives; "" where there are none.

    A method in which they have no say is told so.
    """
    sets = facts.get("target_sets", {})
    if any("rows" not in one for one in sets.values()):
        return "the shares of the target sets have no say in it"
    return "; ".join(
        f"target set {name}: {count(one['rows'], 'row')}"
        + (f", mean cosine {one['similarity']:.4f}" if one["rows"] else "")
        for name, one in sets.items()
    )
