"""Picks test examples to read: those on which two arrangements differ most."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from zsg_jax.report.curves import number
from zsg_jax.report.examples import last_texts, losses
from zsg_jax.report.metrics import METRICS
from zsg_jax.report.summary import Record, Runs

BY = ("rougeL", "exact_match", "rouge1", "reward")  # the first that was measured tells
EXAMPLES = 6  # of a pair of arrangements
PAIRS = 6  # of arrangements
LETTERS = 2000  # of a text

Texts = tuple[int, Mapping[str, Record]]  # a step, id → record


class Said(NamedTuple):
    """A score of an arrangement at a step, its text, and how many letters more there are."""

    name: str
    step: int
    score: str
    text: str = ""
    missing: int = 0


class Example(NamedTuple):
    """A test example, its references, and what both arrangements made of it."""

    id: str
    task: str
    references: Sequence[str]
    said: Sequence[Said]
    prompt: str = ""


class Reading(NamedTuple):
    """What `reading` gives.

    Attributes:
        about: a sentence on what is shown.
        by: the label of the score.
        pairs: (first, second) → examples, the largest difference first.
        left_out: how many pairs of arrangements are not shown.
    """

    about: str
    by: str
    pairs: Mapping[tuple[str, str], Sequence[Example]]
    left_out: int


def reading(scored: Runs) -> Reading | None:
    """The examples to read, of the last step with texts of each arrangement that has any.

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
    label = METRICS[by].label
    about = (
        f"Generated at the last step with texts, by the run of seed {seed}, the first sample of "
        f"each test instance: those whose {label} differs most between two arrangements."
    )
    return _reading(about, label, pairs)


def by_loss(runs: Runs, rows: Sequence[Record]) -> Reading | None:
    """The test examples whose loss differs most, at the last step at which all have losses.

    Args:
        runs: arrangement → seed → records of metrics.jsonl.
        rows: id, task, prompt and references of every example, in the order of the losses.

    Returns:
        None for fewer than two arrangements, or where they share no step, seed or example.
    """
    steps = [
        {one["step"] for one in records if one.get("kind") == "test" and one.get("losses")}
        for by_seed in runs.values()
        for records in by_seed.values()
    ]
    common = set.intersection(*steps) if len(runs) > 1 else set()
    if not common:
        return None
    step = max(common)
    values, _ = losses(runs, None, [step]).at(step)
    means = {name: one.mean(axis=0) for name, one in values.items() if one.shape[1] == len(rows)}
    pairs = {
        (a, b): [_losses(rows[i], step, {a: means[a][i], b: means[b][i]}) for i in order]
        for a, b in combinations(means, 2)
        if (order := _largest(np.abs(means[a] - means[b])))
    }
    label = METRICS["loss"].label
    seeds = max((len(one) for one in values.values()), default=0)
    about = (
        f"At step {step}, {f'means over {seeds} seeds' if seeds > 1 else 'of one seed'}: the test "
        f"instances whose {label} differs most between two arrangements."
    )
    return _reading(about, label, pairs)


def _reading(
    about: str, by: str, pairs: Mapping[tuple[str, str], Sequence[Example]]
) -> Reading | None:
    shown = dict(list(pairs.items())[:PAIRS])
    return Reading(about, by, shown, len(pairs) - len(shown)) if shown else None


def _losses(row: Record, step: int, by_name: Mapping[str, float]) -> Example:
    digits = METRICS["loss"].digits
    said = [Said(name, step, f"{loss:.{digits}f}") for name, loss in by_name.items()]
    return Example(row["id"], row["task"], row["references"], said, row["prompt"])


def _largest(gaps: np.ndarray) -> list[int]:
    # A stable sort: of equal differences the first in their order.
    return [i for i in np.argsort(-gaps, kind="stable")[:EXAMPLES].tolist() if gaps[i] > 0]


def _pick(a: str, b: str, one: Texts, other: Texts, by: str) -> list[Example]:
    (step, first), (step_b, second) = one, other
    ids = sorted(first.keys() & second.keys())
    gaps = np.array([abs(number(first[id][by]) - number(second[id][by])) for id in ids])
    return [
        Example(
            ids[i],
            first[ids[i]]["task"],
            first[ids[i]]["references"],
            [_said(a, step, first[ids[i]], by), _said(b, step_b, second[ids[i]], by)],
        )
        for i in _largest(gaps)
    ]


def _said(name: str, step: int, record: Record, by: str) -> Said:
    text, digits = record["text"], METRICS[by].digits
    return Said(name, step, f"{record[by]:.{digits}f}", text[:LETTERS], max(0, len(text) - LETTERS))
