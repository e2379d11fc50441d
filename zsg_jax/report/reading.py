"""Picks generated texts to read: those of two arrangements whose scores differ most."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from zsg_jax.report.curves import number
from zsg_jax.report.examples import last_texts
from zsg_jax.report.metrics import METRICS
from zsg_jax.report.summary import Record, Runs

BY = ("rougeL", "exact_match", "rouge1", "reward")  # the first that was measured tells
EXAMPLES = 6  # of a pair of arrangements
PAIRS = 6  # of arrangements
LETTERS = 2000  # of a text

Texts = tuple[int, Mapping[str, Record]]  # a step, id → record


class Said(NamedTuple):
    """A text of an arrangement at a step, its score, and how many letters more there are."""

    name: str
    step: int
    score: str
    text: str
    missing: int


class Example(NamedTuple):
    """A test example, its references, and what both arrangements answered."""

    id: str
    task: str
    references: Sequence[str]
    said: Sequence[Said]


class Reading(NamedTuple):
    """What `reading` gives.

    Attributes:
        seed: whose texts they are, each the first sample of its example.
        by: the label of the score.
        pairs: (first, second) → examples, the largest difference first.
        left_out: how many pairs of arrangements are not shown.
    """

    seed: int
    by: str
    pairs: Mapping[tuple[str, str], Sequence[Example]]
    left_out: int


def reading(scored: Runs) -> Reading | None:
    """The examples to read, of the last step of each arrangement that has texts.

    Args:
        scored: arrangement → seed → records of generations.jsonl, among others.

    Returns:
        None for fewer than two arrangements, or where they share no seed, score or example.
    """
    if len(scored) < 2:
        return None
    seeds = set.intersection(*map(set, scored.values()))
    if not seeds:
        return None
    seed = min(seeds)
    last = {
        name: told
        for name, by_seed in scored.items()
        if (told := last_texts(by_seed[seed])) is not None
    }
    every = [one for _, of_id in last.values() for one in of_id.values()]
    by = next((name for name in BY if all(name in one for one in every)), None)
    if by is None:
        return None
    pairs = {
        (a, b): examples
        for a, b in combinations(last, 2)
        if (examples := _pick(a, b, last[a], last[b], by))
    }
    shown = dict(list(pairs.items())[:PAIRS])
    return Reading(seed, METRICS[by].label, shown, len(pairs) - len(shown)) if shown else None


def _pick(a: str, b: str, one: Texts, other: Texts, by: str) -> list[Example]:
    (step, first), (step_b, second) = one, other
    ids = sorted(first.keys() & second.keys())
    gaps = np.array([abs(number(first[id][by]) - number(second[id][by])) for id in ids])
    # A stable sort: of equal differences the ids decide.
    order = [i for i in np.argsort(-gaps, kind="stable")[:EXAMPLES].tolist() if gaps[i] > 0]
    return [
        Example(
            ids[i],
            first[ids[i]]["task"],
            first[ids[i]]["references"],
            [_said(a, step, first[ids[i]], by), _said(b, step_b, second[ids[i]], by)],
        )
        for i in order
    ]


def _said(name: str, step: int, record: Record, by: str) -> Said:
    text, digits = record["text"], METRICS[by].digits
    return Said(name, step, f"{record[by]:.{digits}f}", text[:LETTERS], max(0, len(text) - LETTERS))
