"""Picks generated texts to read: those of two arrangements whose scores differ most."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from zsg_jax.report.curves import number
from zsg_jax.report.examples import texts
from zsg_jax.report.metrics import METRICS
from zsg_jax.report.summary import Record, Runs

BY = ("rougeL", "exact_match", "rouge1", "reward")  # the first that was measured tells
EXAMPLES = 6  # of a pair of arrangements
PAIRS = 6  # of arrangements
LETTERS = 2000  # of a text


class Said(NamedTuple):
    """A text of an arrangement, its score, and how many letters more there are."""

    name: str
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
        step, seed: whose texts they are, each the first sample of its example.
        by: the label of the score.
        pairs: (first, second) → examples, the largest difference first.
        left_out: how many pairs of arrangements are not shown.
    """

    step: int
    seed: int
    by: str
    pairs: Mapping[tuple[str, str], Sequence[Example]]
    left_out: int


def reading(scored: Runs) -> Reading | None:
    """The examples to read, of the last step at which all arrangements have texts.

    Args:
        scored: arrangement → seed → records of generations.jsonl, among others.

    Returns:
        None for fewer than two arrangements, or where they share no seed, step, score or example.
    """
    if len(scored) < 2:
        return None
    seeds = set.intersection(*map(set, scored.values()))
    if not seeds:
        return None
    seed = min(seeds)
    records = {name: by_seed[seed] for name, by_seed in scored.items()}
    steps = [{one["step"] for one in told if "text" in one} for told in records.values()]
    common = set.intersection(*steps)
    if not common:
        return None
    step = max(common)
    found = {name: texts(told, step) for name, told in records.items()}
    every = [one for told in found.values() for one in told.values()]
    by = next((name for name in BY if all(name in one for one in every)), None)
    if by is None:
        return None
    pairs = {
        (a, b): examples
        for a, b in combinations(found, 2)
        if (examples := _pick(a, b, found[a], found[b], by))
    }
    shown = dict(list(pairs.items())[:PAIRS])
    return Reading(step, seed, METRICS[by].label, shown, len(pairs) - len(shown)) if shown else None


def _pick(
    a: str, b: str, first: Mapping[str, Record], second: Mapping[str, Record], by: str
) -> list[Example]:
    ids = sorted(first.keys() & second.keys())
    gaps = np.array([abs(number(first[id][by]) - number(second[id][by])) for id in ids])
    # A stable sort: of equal differences the ids decide.
    order = [i for i in np.argsort(-gaps, kind="stable")[:EXAMPLES].tolist() if gaps[i] > 0]
    return [
        Example(
            ids[i],
            first[ids[i]]["task"],
            first[ids[i]]["references"],
            [_said(a, first[ids[i]], by), _said(b, second[ids[i]], by)],
        )
        for i in order
    ]


def _said(name: str, record: Record, by: str) -> Said:
    text, digits = record["text"], METRICS[by].digits
    return Said(name, f"{record[by]:.{digits}f}", text[:LETTERS], max(0, len(text) - LETTERS))
