"""Scores of examples become the fields of a record: once, in float64, never from means of batches.

The sums are exact (`math.fsum`), so neither the order of examples nor their batches change a bit.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zsg_jax.runtime.errors import check

Record = Mapping[str, Any]

# The score that tells most of a category (arXiv 2204.07705, appendix: evaluation by category).
HEADLINES = {
    **dict.fromkeys(
        (
            "textual entailment",
            "cause effect classification",
            "coreference resolution",
            "dialogue act recognition",
            "answerability classification",
            "word analogy",
        ),
        "exact_match",
    ),
    **dict.fromkeys(
        (
            "overlap extraction",
            "keyword tagging",
            "question rewriting",
            "title generation",
            "data to text",
            "grammar error correction",
        ),
        "rougeL",
    ),
}


def aggregate(
    name: str,
    values: Sequence[Any] | np.ndarray,
    tasks: Sequence[str],
    categories: Sequence[str] | None = None,
) -> dict[str, Any]:
    """What a record says of a score.

    Args:
        name: of the field, as "rougeL".
        values: (N,), or (N, S) for S samples of every example, whose mean is the example's.
        tasks: (N,) the task of each.
        categories: (N,) the category of each, "" where it is not known; None: of all.

    Returns:
        NAME, the mean over examples; NAME_over_tasks, the mean over tasks of each one's mean;
        NAME_by_task; and NAME_by_category where every category is known.

    Raises:
        UserError: there is no example, or a value is not finite.
    """
    given = np.asarray(values, np.float64)
    check(given.size > 0, f"{name}: there is no example to take a mean of")
    check(bool(np.isfinite(given).all()), f"{name}: a value is not finite; look at the records")
    examples = [_mean(row) for row in given.reshape(len(given), -1)]
    by_task = _by(examples, tasks)
    found: dict[str, Any] = {
        name: _mean(examples),
        f"{name}_over_tasks": _mean(by_task.values()),
        f"{name}_by_task": by_task,
    }
    if categories is not None and all(categories):
        found[f"{name}_by_category"] = _by(examples, categories)
    return found


def aggregate_records(records: Iterable[Record], fields: Iterable[str]) -> dict[str, Any]:
    """`aggregate` of each of `fields`, from the records of one evaluation.

    Records of one `id` are samples of one example. "task" is its task and "category", where it is
    there, its category. Where all categories have a headline score and it was measured, `headline`
    tells the mean over instances of each one's.

    Raises:
        UserError: as `aggregate`; or a field is missing in a record, or some examples have more
            samples than others.
    """
    samples: dict[str, list[Record]] = {}
    for record in records:
        samples.setdefault(record["id"], []).append(record)
    counts = {len(one) for one in samples.values()}
    check(
        len(counts) <= 1,
        f"examples have from {min(counts, default=0)} to {max(counts, default=0)} samples; delete "
        "their file to measure all again",
    )
    firsts = [one[0] for one in samples.values()]
    tasks = [one["task"] for one in firsts]
    categories = [one.get("category", "") for one in firsts]
    chosen = [HEADLINES.get(_plain(one)) for one in categories]

    def column(names: Sequence[str]) -> list[list[float]]:
        rows = zip(samples.items(), names, strict=True)
        return [[_field(one, name, id) for one in row] for (id, row), name in rows]

    found: dict[str, Any] = {}
    for field in fields:
        values = column([field] * len(firsts))
        found |= aggregate(field, values, tasks, categories)
    if firsts and all(name in firsts[0] for name in chosen):
        found |= aggregate("headline", column([str(name) for name in chosen]), tasks, categories)
    return found


def _field(record: Record, name: str, id: str) -> float:
    check(name in record, f"{id}: its record has no {name!r}; delete its file to measure all again")
    return record[name]


def _plain(category: str) -> str:
    return " ".join(category.lower().replace("_", " ").split())


def _by(values: Sequence[float], groups: Sequence[str]) -> dict[str, float]:
    """The mean of each group, in the order in which they first come."""
    members: dict[str, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    return {group: _mean(one) for group, one in members.items()}


def _mean(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return math.fsum(found) / len(found)
