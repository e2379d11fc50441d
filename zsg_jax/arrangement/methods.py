"""The arrangements that can be named; all that belongs to one stands in its entry here.

A new method is one more entry of `METHODS`, or of `PATTERNS` if its name holds more; what makes
another order of any of them, one of `reorderings.REORDERINGS`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from zsg_jax.arrangement import chosen, permutations, reorderings
from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.method import ByColumn, Criterion, Method, Pattern
from zsg_jax.arrangement.needs import Needs
from zsg_jax.arrangement.subsets import halves, of_tasks, polar, turn_range, uniform
from zsg_jax.runtime.errors import UserError, check, did_you_mean

if TYPE_CHECKING:  # the names of methods are known without what compares by them
    from zsg_jax.arrangement.comparison import Comparison

SCORES = "scores_sha256"  # of the numbers that training examples carry, in what is told of an order
STRONG = 10.0  # a weight of WSD's average from which on the minimum hardly counts


def _weighted(name: str) -> Callable[[Comparison], dict[str, Any]]:
    def facts(comparison: Comparison) -> dict[str, Any]:
        _, w_min, w_avg = getattr(comparison, name)
        return {"w_min": w_min, "w_avg": w_avg.tolist()}

    return facts


# By minimum and maximum examples are ranked by the cosine itself, whatever the distance.
MINIMUM = Criterion(
    "minimum over test rows of {d}",
    lambda c: c.distances.minimum,
    rank=lambda c: -c.cosines.maximum,
)
MAXIMUM = Criterion(
    "maximum over test rows of {d}",
    lambda c: c.distances.maximum,
    rank=lambda c: -c.cosines.minimum,
)
AVERAGE = Criterion("average over test rows of {d}", lambda c: c.distances.average)
WSD = Criterion(
    "WSD, w_min·MD + w_avg·AD, d = {d}", lambda c: c.wsd.distance, facts=_weighted("wsd")
)
OWN_WSD = Criterion(
    "WSD, w_min·MD + w_avg·AD with w_avg of the row's task, d = {d}",
    lambda c: c.own_wsd.distance,
    facts=_weighted("own_wsd"),
)
TASK_WSD = Criterion(
    "WSD of the task's mean row, w_min·MD + w_avg·AD, d = {d}",
    lambda c: c.task_wsd.distance[c.tasks],
    Needs.TASK_MEANS,
    facts=_weighted("task_wsd"),
)
TRANSPORT = Criterion(
    "cost under the optimal transport to the test rows, d = {d}",
    lambda c: c.transport.distance,
    Needs.NOTHING,
    facts=lambda c: c.transport.facts,
)
SINKHORN = Criterion(
    "cost under Sinkhorn's transport to the test rows, d = {d}",
    lambda c: c.sinkhorn.distance,
    Needs.NOTHING,
    facts=lambda c: c.sinkhorn.facts,
)


def _both_ends(
    name: str, nearest: Callable[[Comparison], np.ndarray], criterion: Criterion, by_task: bool
) -> dict[str, Method]:
    """An order of the pool nearest first, and the same backward."""

    def method(name: str, order: Callable[[Comparison], np.ndarray]) -> Method:
        return Method(
            lambda c, seed: c.within_budget(c.by_sets(name, order)),
            criterion.needs,
            criterion,
            by_task=by_task,
            chosen_by=(name,),
        )

    return {
        f"{name}-nft": method(f"{name}-nft", nearest),
        f"{name}-fft": method(f"{name}-fft", lambda c: nearest(c)[::-1]),
    }


def _fine(name: str, criterion: Criterion) -> dict[str, Method]:
    """The pool by each example's distance to the test set."""
    rank = criterion.rank or criterion.distance
    return _both_ends(name, lambda c: permutations.by_distance(rank(c)), criterion, by_task=False)


_NEAREST = Method(lambda c, seed: c.nearest, Needs.NEAREST, chosen_by=("nearest",))
_HALVES = Method(
    lambda c, seed: halves(c.nearest, c.farthest, c.wanted),
    Needs.NEAREST | Needs.FARTHEST,
    chosen_by=("nearest", "farthest"),
)

METHODS: dict[str, Method] = {
    # Algorithm 1 as it stands, and with the farthest example named instead of the nearest.
    "tmta-min": _NEAREST,
    "tmta-max": Method(lambda c, seed: c.farthest, Needs.FARTHEST, chosen_by=("farthest",)),
    # The examples of tmta-min three ways: forward, backward, shuffled.
    "tmta-nft": _NEAREST,
    "tmta-fft": _NEAREST._replace(arrange=lambda c, seed: permutations.backward(c.nearest)),
    "tmta-rt": _NEAREST._replace(
        arrange=lambda c, seed: permutations.shuffled(c.nearest, seed), shuffles=True
    ),
    # Half of either; and the examples of tmta-min-max shuffled.
    "tmta-min-max": _HALVES,
    "tmta-max-min": _HALVES._replace(
        arrange=lambda c, seed: halves(c.farthest, c.nearest, c.wanted),
        chosen_by=_HALVES.chosen_by[::-1],
    ),
    "tmta-random": _HALVES._replace(
        arrange=lambda c, seed: permutations.shuffled(_HALVES.arrange(c, seed), seed),
        shuffles=True,
    ),
    # Test examples choose one after the other, each for itself.
    "targets": Method(lambda c, seed: c.rounds, Needs.NEAREST, chosen_by=("rounds",)),
    # Each choice adds most to how well all test examples are covered.
    "coverage": chosen.COVERAGE,
    # The pool without regard to the test set.
    "random": Method(
        lambda c, seed: c.within_budget(permutations.random(len(c), seed)),
        shuffles=True,
        embedded=False,
    ),
    "round-robin": Method(
        lambda c, seed: c.within_budget(permutations.round_robin(c.tasks)),
        by_task=True,
        embedded=False,
    ),
    "cluster": Method(
        lambda c, seed: c.within_budget(permutations.cluster(c.tasks)), by_task=True, embedded=False
    ),
    # Fine grain.
    **_fine("wsd", WSD),
    **_fine("min", MINIMUM),
    **_fine("max", MAXIMUM),
    **_fine("avg", AVERAGE),
    **_fine("ot", TRANSPORT),
    **_fine("ot-sinkhorn", SINKHORN),
    # Coarse grain.
    **_both_ends(
        "coarse",
        lambda c: permutations.coarse(c.tasks, c.task_wsd.distance),
        TASK_WSD,
        by_task=True,
    ),
}


def _turns(a: int, b: int) -> Method | None:
    """The turns [a, b) of tmta-min."""

    def arrange(comparison: Comparison, seed: int) -> Arrangement:
        there = len(comparison.nearest.turn_sizes)
        more = "" if comparison.budget is None else " or a larger budget"
        check(
            b - 1 <= there,
            f"'tmta-turns-{a}-{b}' ends with turn {b - 1}, but there are {there}; ask for earlier "
            f"turns{more}",
        )
        return turn_range(comparison.nearest, a, b)

    return _NEAREST._replace(arrange=arrange) if a < b else None


def _subset(
    name: str, usage: str, choose: Callable[[np.ndarray, np.ndarray, int], np.ndarray]
) -> tuple[Pattern, Pattern]:
    """A part of every task by its own WSD, task after task; and the same shuffled."""

    def method(number: int, shuffles: bool) -> Method:
        def arrange(comparison: Comparison, seed: int) -> Arrangement:
            order = choose(comparison.own_wsd.distance, comparison.tasks, number)
            if shuffles:
                order = order[permutations.random(len(order), seed)]
            return comparison.within_budget(order)

        return Method(arrange, OWN_WSD.needs, OWN_WSD, shuffles, by_task=True, counted=True)

    return (
        Pattern(name, usage, lambda number: method(number, False)),
        Pattern(f"{name}-shuffled", usage, lambda number: method(number, True)),
    )


def _tasks(number: int) -> Method:
    """Examples of so many tasks alone."""

    def arrange(comparison: Comparison, seed: int) -> Arrangement:
        budget = None if comparison.budget is None else comparison.wanted
        try:
            order = of_tasks(comparison.tasks, number, budget, seed)
        except UserError as error:
            raise UserError(f"'tasks-{number}': {error}") from None
        return comparison.within_budget(order)

    return Method(arrange, shuffles=True, by_task=True, embedded=False, counted=True)


def scores_digest(scores: np.ndarray) -> str:
    """The SHA-256 of the numbers, (N,) float64, that training examples carry."""
    return hashlib.sha256(scores.tobytes()).hexdigest()


def _score(name: str, sign: int) -> ByColumn:
    """The pool by a number that each example carries, whatever the test set is."""

    def method(column: str) -> Method:
        criterion = Criterion(f"{column} of the row", lambda c: c.score(column), Needs.NOTHING)
        return Method(
            lambda c, seed: c.within_budget(permutations.by_distance(sign * c.score(column))),
            criterion=criterion,
            facts=lambda c: {SCORES: scores_digest(c.score(column))},
            column=column,
            embedded=False,
        )

    usage = (
        f"write {name}:COLUMN for a field of the rows that holds a number, of letters, digits, "
        f"_, - and ., as in {name}:quality or {name}:scores.quality"
    )
    return ByColumn(f"{name}:COLUMN", usage, method)


PATTERNS: tuple[Pattern | ByColumn, ...] = (
    Pattern(
        "tmta-turns-A-B",
        "write tmta-turns-A-B for the turns from A up to, but without, B, 1 ≤ A < B, as in "
        "tmta-turns-1-6",
        _turns,
    ),
    *_subset(
        "polar-N",
        "write polar-N for N rows of every task, half of them its nearest and half its farthest, "
        "N ≥ 1, as in polar-10 or polar-10-shuffled",
        polar,
    ),
    *_subset(
        "uniform-K",
        "write uniform-K for every K-th row of every task from the nearest to the farthest, "
        "K ≥ 1, as in uniform-5 or uniform-5-shuffled",
        uniform,
    ),
    Pattern(
        "diverse-N",
        "write diverse-N for N rows that stand for all others, N ≥ 1, as in diverse-1000",
        chosen.diverse,
    ),
    Pattern(
        "mmr-N",
        "write mmr-N for maximal marginal relevance with N hundredths of nearness to the test set, "
        "the rest of unlikeness to what is chosen, 1 ≤ N ≤ 100, as in mmr-70",
        chosen.marginal,
    ),
    Pattern(
        "tasks-N",
        "write tasks-N for a budget of rows from N tasks alone, N ≥ 1, as in tasks-16",
        _tasks,
    ),
    _score("score-ascending", 1),
    _score("score-descending", -1),
)
NAMES = (*METHODS, *(pattern.name for pattern in PATTERNS))
LONGEST = 200  # bytes of a name, of which folders are called


def parse(name: str, seed: int) -> tuple[Method, int]:
    """The method and the seed of "tmta-rt@3"; a name without @ has the given `seed`.

    Raises:
        UserError: for an unknown method, a seed on a method that draws nothing, or a name that no
            folder could have.
    """
    check(
        (length := len(os.fsencode(name))) <= LONGEST,
        f"{name[:40]!r} and so on: is {length:,} bytes long, but names folders; give one of "
        f"{LONGEST} at most",
    )
    plain, at, own = name.partition("@")
    method = _find(plain, name)
    if not at:
        return method, seed
    if not method.shuffles:
        raise UserError(f"{name!r} has a seed, but {plain} draws nothing")
    if not own.isdecimal() or str(int(own)) != own:
        raise UserError(f"{name!r}: after @ stands a whole number from 0")
    return method, int(own)


def _find(plain: str, name: str) -> Method:
    base, plus, suffix = plain.rpartition("+")
    if plus:
        return _reordered(_find(base, name), *reorderings.find(suffix, name))
    meant = [pattern for pattern in PATTERNS if plain.startswith(pattern.prefix)]
    for pattern in meant:
        if found := pattern.match(plain):
            return found
    if meant:
        raise UserError(f"{name!r}: {meant[0].usage}")
    if plain not in METHODS:
        raise UserError(
            f"{name!r} is unknown; choose from {', '.join(NAMES)}{did_you_mean(plain, NAMES)}"
        )
    return METHODS[plain]


def _reordered(method: Method, reordering: reorderings.Reordering, number: int) -> Method:
    return method._replace(
        arrange=lambda c, seed: reordering(method.arrange(c, seed), number, seed),
        shuffles=method.shuffles or reordering.shuffles,
        facts=(lambda c: {}) if method.of_chosen and reordering.cuts else method.facts,
    )


def arrange(name: str, comparison: Comparison, seed: int) -> Arrangement:
    """The arrangement that `name` stands for; `seed` is for methods that shuffle.

    Raises:
        UserError: for a name that `parse` refuses, or turns or examples of which there are too few.
    """
    check_least(name, len(comparison))
    method, seed = parse(name, seed)
    return method.arrange(comparison, seed)


def check_least(name: str, rows: int, which: str = "") -> None:
    """Refuses a method that asks for more than `rows` examples.

    Args:
        name: of the method.
        rows: how many there are.
        which: what they are, as " that are left after step 3".
    """
    least = parse(name, 0)[0].least
    check(least <= rows, f"{name!r} asks for {least:,} rows of {rows:,}{which}; ask for fewer")


def needs(names: Iterable[str]) -> Needs:
    """What the arrangements `names` will ask of a comparison.

    Raises:
        UserError: for a name that `parse` refuses.
    """
    all_needs = Needs.NOTHING
    for name in names:
        all_needs |= parse(name, 0)[0].needs
    return all_needs


def columns(names: Iterable[str]) -> list[str]:
    """The fields of training examples whose numbers the arrangements `names` go by.

    Raises:
        UserError: for a name that `parse` refuses.
    """
    return sorted({parse(name, 0)[0].column for name in names} - {""})


def made_with(name: str, comparison: Comparison) -> dict[str, Any]:
    """What else a reader of the arrangement `name` must know, as JSON values.

    The distance; of an order by distance what the distance is, with WSD's weights or the transport
    plan (whether it is exact, else its entropy, iterations and error), unless sets of test examples
    have their own, which `target_sets.of_sets` tells; of `diverse-N` and `coverage`
    F and the share of the whole pool's; of `mmr-N` the mean relevance and redundancy of the chosen;
    of these nothing where a reordering leaves some of the chosen out.
    """
    method = parse(name, 0)[0]
    facts: dict[str, Any] = {"metric": comparison.distance, **method.facts(comparison)}
    criterion = method.criterion
    if criterion is not None:
        facts["distance"] = _meaning(criterion, comparison)
        if not by_sets(method, comparison):
            facts |= criterion.facts(comparison)
    return facts


def by_sets(method: Method, comparison: Comparison) -> bool:
    """Whether each set of test examples goes by what the criterion says of that set alone."""
    return (
        comparison.set_index is not None and method.criterion is not None and bool(method.chosen_by)
    )


def caution(facts: dict[str, Any]) -> str:
    """What is odd about the weights in what `made_with` gave; "" where nothing is."""
    every = [facts, *facts.get("target_sets", {}).values()]
    odd = [w for one in every for w in np.ravel(one.get("w_avg", 1.0)) if not 0 <= w <= STRONG]
    if not odd:
        return ""
    w_avg = min(odd)
    effect = (
        "rows far from the test rows on average count as near" if w_avg < 0 else "it decides alone"
    )
    return f"WSD weighs the average by {w_avg:.3g}: {effect}; set w_avg to choose"


def example_distance(name: str, comparison: Comparison) -> tuple[np.ndarray, str]:
    """Each example's distance to the test set that the method `name` goes by, and what it is.

    Examples of whole tasks have their task's; a method that goes by none has the minimum.

    Returns:
        (N,) floats over the pool, and a few words.

    Raises:
        UserError: for a name that `parse` refuses.
    """
    criterion = parse(name, 0)[0].criterion or MINIMUM
    return criterion.distance(comparison), _meaning(criterion, comparison)


def _meaning(criterion: Criterion, comparison: Comparison) -> str:
    words = {"cosine": "-cos", "euclidean": "Euclidean distance of unit rows"}
    return criterion.meaning.format(d=words[comparison.distance])
