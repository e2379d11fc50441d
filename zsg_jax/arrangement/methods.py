"""The arrangements a study can name, and how each is made from the embeddings."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from zsg_jax.arrangement import orders
from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.inputs import Inputs, Needs
from zsg_jax.arrangement.subsets import polar, turn_range, uniform
from zsg_jax.runtime.errors import UserError, check, nearest

__all__ = [
    "METHODS",
    "Inputs",
    "arrange",
    "caution",
    "made_with",
    "needs",
    "parse",
    "row_distance",
    "shuffles",
]

Method = Callable[[Inputs, int], Arrangement]


def _fine(distance: Callable[[Inputs], np.ndarray], descending: bool) -> Method:
    return lambda inputs, seed: orders.by_distance(
        distance(inputs), descending=descending, budget=inputs.budget
    )


def _coarse(descending: bool) -> Method:
    return lambda inputs, seed: orders.coarse(
        inputs.tasks, inputs.task_wsd.distance, descending=descending, budget=inputs.budget
    )


METHODS: dict[str, Method] = {
    # Algorithm 1 as it stands, and with the farthest row named instead of the nearest.
    "tmta-min": lambda inputs, seed: inputs.nearest,
    "tmta-max": lambda inputs, seed: inputs.farthest,
    # The rows of tmta-min three ways: turns forward, turns backward, shuffled.
    "tmta-nft": lambda inputs, seed: orders.nearest_first(inputs.nearest),
    "tmta-fft": lambda inputs, seed: orders.farthest_first(inputs.nearest),
    "tmta-rt": lambda inputs, seed: orders.shuffled(inputs.nearest, seed),
    # Half of either; and the rows of tmta-min-max shuffled.
    "tmta-min-max": lambda inputs, seed: inputs.min_max(),
    "tmta-max-min": lambda inputs, seed: inputs.max_min(),
    "tmta-random": lambda inputs, seed: orders.shuffled(inputs.min_max(), seed),
    # The pool without regard to the test set.
    "random": lambda inputs, seed: orders.random(inputs.rows, seed, budget=inputs.budget),
    "round-robin": lambda inputs, seed: orders.round_robin(inputs.tasks, budget=inputs.budget),
    "cluster": lambda inputs, seed: orders.cluster(inputs.tasks, budget=inputs.budget),
    # Fine grain: the pool by each row's distance to the test set, nearest or farthest first.
    # By minimum and maximum rows are ranked by the cosine itself, for either metric.
    "wsd-nft": _fine(lambda inputs: inputs.wsd.distance, False),
    "wsd-fft": _fine(lambda inputs: inputs.wsd.distance, True),
    "min-nft": _fine(lambda inputs: -inputs.cosines.maximum, False),
    "min-fft": _fine(lambda inputs: -inputs.cosines.maximum, True),
    "max-nft": _fine(lambda inputs: -inputs.cosines.minimum, False),
    "max-fft": _fine(lambda inputs: -inputs.cosines.minimum, True),
    "avg-nft": _fine(lambda inputs: inputs.distances.average, False),
    "avg-fft": _fine(lambda inputs: inputs.distances.average, True),
    "ot-nft": _fine(lambda inputs: inputs.transport.distance, False),
    "ot-fft": _fine(lambda inputs: inputs.transport.distance, True),
    # Coarse grain: whole tasks by the WSD of their mean embedding.
    "coarse-nft": _coarse(False),
    "coarse-fft": _coarse(True),
}
TURNS = "tmta-turns-"  # tmta-turns-A-B: the turns [A, B) of tmta-min
_RANGE = re.compile(rf"{TURNS}([1-9][0-9]{{0,8}})-([1-9][0-9]{{0,8}})")
# polar-N and uniform-K: parts of every task by WSD rank. They are shuffled, since rows of a subset
# come by ascending index, which is the order of the tasks in most files.
SUBSETS = {"polar": polar, "uniform": uniform}
_SUBSET = re.compile(r"(polar|uniform)-([1-9][0-9]{0,8})")
_SHUFFLING = frozenset({"tmta-rt", "tmta-random", "random"})
_PATTERNS = (f"{TURNS}A-B", "polar-N", "uniform-K")


def parse(name: str, seed: int) -> tuple[str, int]:
    """Splits "tmta-rt@3" into method and seed; a name without @ has the given `seed`.

    Raises:
        UserError: for an unknown method, or a seed on a method that draws nothing.
    """
    method, at, own = name.partition("@")
    if method.startswith(TURNS):
        check(
            _turns(method) is not None,
            f"{name!r}: write {TURNS}A-B for the turns from A up to, but "
            f"without, B, 1 ≤ A < B, as in {TURNS}1-6",
        )
    elif method.startswith("polar"):
        check(
            _SUBSET.fullmatch(method) is not None,
            f"{name!r}: write polar-N for N rows of every task, half of them "
            "its nearest and half its farthest, N ≥ 1, as in polar-10",
        )
    elif method.startswith("uniform"):
        check(
            _SUBSET.fullmatch(method) is not None,
            f"{name!r}: write uniform-K for every K-th row of every task from "
            "the nearest to the farthest, K ≥ 1, as in uniform-5",
        )
    elif method not in METHODS:
        names = [*METHODS, *_PATTERNS]
        raise UserError(
            f"{name!r} is unknown; choose from {', '.join(names)}{nearest(method, names)}"
        )
    if not at:
        return method, seed
    if not shuffles(method):
        raise UserError(f"{name!r} has a seed, but {method} draws nothing")
    if not own.isdecimal() or str(int(own)) != own:
        raise UserError(f"{name!r}: after @ stands a whole number from 0")
    return method, int(own)


def shuffles(method: str) -> bool:
    """Whether `method`, a name without @, draws by chance: then it has a use for a seed."""
    return method in _SHUFFLING or _SUBSET.fullmatch(method) is not None


def arrange(name: str, inputs: Inputs, seed: int) -> Arrangement:
    """The arrangement that `name` stands for; `seed` is for methods that shuffle.

    Raises:
        UserError: for a name that `parse` refuses, or turns of which there are too few.
    """
    method, own_seed = parse(name, seed)
    subset = _SUBSET.fullmatch(method)
    if subset is not None:
        rows = SUBSETS[subset[1]](inputs.wsd.distance, inputs.tasks, int(subset[2]))
        mixed = orders.shuffled(rows, own_seed)
        return Arrangement(mixed.order[: inputs.budget], mixed.turn[: inputs.budget])
    turns = _turns(method)
    if turns is None:
        return METHODS[method](inputs, own_seed)
    there = len(inputs.nearest.turn_sizes)
    more = "" if inputs.budget is None else " or a larger budget"
    check(
        turns[1] - 1 <= there,
        f"{name!r} ends with turn {turns[1] - 1}, but there are {there}; ask "
        f"for earlier turns{more}",
    )
    return turn_range(inputs.nearest, *turns)


def needs(names: Iterable[str]) -> Needs:
    """What the arrangements `names` will ask of `Inputs`.

    Raises:
        UserError: for a name that `parse` refuses.
    """
    methods = [parse(name, 0)[0] for name in names]
    both = ("tmta-min-max", "tmta-max-min", "tmta-random")
    return Needs(
        statistics=any(_measure(one) in ("wsd", *_FIELDS) for one in methods),
        nearest=any(one.startswith("tmta-") and one != "tmta-max" for one in methods),
        farthest=any(one in ("tmta-max", *both) for one in methods),
        task_means=any(_measure(one) == "coarse" for one in methods),
    )


def made_with(name: str, inputs: Inputs) -> dict[str, Any]:
    """What else a reader of the arrangement `name` must know.

    The metric; of an order by distance what the distance is, with WSD's weights or the transport
    plan's entropy, iterations and error.
    """
    facts: dict[str, Any] = {"metric": inputs.metric}
    measure = _measure(name)
    if measure is None:
        return facts
    facts["distance"] = _describe(measure, inputs.metric)
    if measure in ("wsd", "coarse"):
        _, facts["w_min"], facts["w_avg"] = inputs.wsd if measure == "wsd" else inputs.task_wsd
    if measure == "ot":
        for key in ("epsilon", "marginal_error", "iterations"):
            facts[key] = getattr(inputs.transport, key)
    return facts


def caution(facts: dict[str, Any]) -> str:
    """What is odd about the weights in what `made_with` gave; "" where nothing is."""
    w_avg = facts.get("w_avg", 1.0)
    if 0 <= w_avg <= STRONG:
        return ""
    return (
        f"WSD weighs the average by {w_avg:.3g}: "
        + (
            "rows far from the test rows on average count as near"
            if w_avg < 0
            else "it decides alone"
        )
        + "; set w_avg to choose"
    )


def row_distance(name: str, inputs: Inputs) -> tuple[np.ndarray, str]:
    """Each row's distance to the test set that the method `name` goes by, and what it is.

    Whole tasks' rows have their task's; a method that goes by none of these has the minimum.

    Returns:
        (N,) floats over the pool, and a few words.

    Raises:
        UserError: for a name that `parse` refuses.
    """
    measure = _measure(name) or "min"
    if measure == "coarse":
        distance = inputs.task_wsd.distance[inputs.tasks]
    elif measure == "wsd":
        distance = inputs.wsd.distance
    elif measure == "ot":
        distance = inputs.transport.distance
    else:
        distance = getattr(inputs.distances, _FIELDS[measure])
    return distance, _describe(measure, inputs.metric)


STRONG = 10.0  # a weight of WSD's average from which on the minimum hardly counts
_FIELDS = {"min": "minimum", "max": "maximum", "avg": "average"}


def _measure(name: str) -> str | None:
    """What the rows of `name` are ordered or chosen by; None of TMTA and what is blind."""
    kind = parse(name, 0)[0].split("-")[0]
    kind = "wsd" if kind in SUBSETS else kind
    return kind if kind in ("wsd", "coarse", "ot", *_FIELDS) else None


def _describe(measure: str, metric: str) -> str:
    pair = {"cosine": "-cos", "euclidean": "Euclidean distance of unit rows"}[metric]
    if measure in _FIELDS:
        return f"{_FIELDS[measure]} over test rows of {pair}"
    return {
        "wsd": f"WSD, w_min·MD + w_avg·AD, d = {pair}",
        "coarse": f"WSD of the task's mean row, w_min·MD + w_avg·AD, d = {pair}",
        "ot": f"cost under the optimal transport to the test rows, d = {pair}",
    }[measure]


def _turns(method: str) -> tuple[int, int] | None:
    """(A, B) of a name of turns, None of any other."""
    match = _RANGE.fullmatch(method)
    a, b = (int(match[1]), int(match[2])) if match else (0, 0)
    return (a, b) if a < b else None
