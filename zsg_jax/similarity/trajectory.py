"""Distances of the data seen so far to test rows, against steps taken in an arrangement's order."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsg_jax.runtime.errors import UserError, check, nearest
from zsg_jax.runtime.files import need_json, write_json
from zsg_jax.similarity.distances import check_distance
from zsg_jax.similarity.embeddings import Embeddings, check_pair
from zsg_jax.similarity.measures import (
    Centroids,
    Divergences,
    Measure,
    PairDistances,
    TransportCosts,
)
from zsg_jax.similarity.search.options import Search

# What is known of the rows seen, S, and test rows, T (arXiv 2406.11721, similarity).
MEASURES = {
    "nearest": "distance from a test row to the nearest row seen, mean over the test rows",
    "average": "average distance over all pairs of a row seen and a test row",
    "minimum": "smallest distance of all pairs",
    "maximum": "largest distance of all pairs",
    "wsd": "Weighted Similarity Distance, mean over the rows seen",
    "centroid": "distance between the mean row seen and the mean test row",
    "transport": "cost of optimal transport from the rows seen to the test rows",
    "divergence": "KL divergence of the word 2-grams seen from the test rows' 2-grams, nats",
}
DEFAULT = ("nearest", "average")
PAIRS = ("minimum", "maximum", "average", "nearest", "wsd")
PAIRS_AT_ONCE = 2**24  # cosines on the host at a time
TRANSPORTS = 20  # points at most: each is a problem of its own
FILE = "similarity.json"


@dataclass(frozen=True)
class Trajectory:
    """How far the training data seen so far are from the test rows, in some of `MEASURES`.

    Attributes:
        step: (P,) int64, from 1.
        distance: "cosine", d = -cos, or "euclidean".
        values: measure → (P,) float64, toward the whole test set; NaN where not measured.
        by_task: task of the test rows → the same toward its rows alone.
        weights: (w_min, w_avg) of "wsd", the same for all tasks; None without it.
    """

    step: np.ndarray
    distance: str
    values: dict[str, np.ndarray]
    by_task: dict[str, dict[str, np.ndarray]]
    weights: tuple[float, float] | None = None


def check_measures(names: Sequence[str]) -> None:
    """Checks that a trajectory can be made of `names`.

    Raises:
        UserError: if there is none, one is unknown, or one stands twice.
    """
    for name in names:
        check(
            name in MEASURES,
            f"similarity.trajectory: {name!r} is unknown; choose from {', '.join(MEASURES)}"
            f"{nearest(name, MEASURES)}",
        )
    if not names or len(set(names)) != len(names):
        raise UserError(f"similarity.trajectory={tuple(names)} must be different names, at least 1")


def save_trajectory(path: Path, points: Trajectory) -> None:
    """Writes a trajectory as JSON: of every measure the whole set's values and each task's."""
    measures = {
        name: {
            "means": MEASURES[name],
            "all": _json(values),
            "by_task": {task: _json(own[name]) for task, own in points.by_task.items()},
        }
        for name, values in points.values.items()
    }
    head = {"step": points.step.tolist(), "metric": points.distance, "weights": points.weights}
    write_json(path, {**head, "measures": measures})


def load_trajectory(path: Path) -> Trajectory:
    """Reads what `save_trajectory` wrote.

    Raises:
        UserError: if it is missing or damaged.
    """
    content = need_json(path, ("step", "metric", "weights", "measures"))
    try:
        measures = content["measures"]
        tasks = list(dict.fromkeys(task for own in measures.values() for task in own["by_task"]))
        return Trajectory(
            np.array(content["step"], np.int64),
            content["metric"],
            {name: _array(own["all"]) for name, own in measures.items()},
            {t: {k: _array(own["by_task"][t]) for k, own in measures.items()} for t in tasks},
            tuple(content["weights"]) if content["weights"] else None,
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: is damaged: {error!r}") from None


def trajectory(
    train: Embeddings,
    test: Embeddings,
    order: np.ndarray,
    *,
    batch_size: int,
    every: int = 1,
    measures: Collection[str] = DEFAULT,
    distance: str = "cosine",
    tasks: Sequence[str] | None = None,
    texts: tuple[Sequence[str], Sequence[str]] | None = None,
    w_min: float = 1.0,
    w_avg: float | None = None,
    search: Search = Search(),
) -> Trajectory:
    """Follows an order, one pass over its rows, a block at a time: never the whole matrix.

    Every measure is kept up as rows come, but for optimal transport, which is solved anew, and for
    that at 20 points at most, evenly spaced, the first and the last included.

    Args:
        train, test: (N, D) and (T, D) floats, T at least 1.
        order: (n,) int64 training rows; a step takes the next `batch_size`.
        every: steps between points; the last step is always one.
        measures: names from `MEASURES`.
        distance: "cosine" or "euclidean".
        tasks: T names, each test row's task; None for no task.
        texts: N and T texts, for "divergence".
        w_min, w_avg: weights of "wsd"; without `w_avg`, mean(MD) / mean(AD) over the rows of
            `order` and the whole test set.
        search: devices, block size and progress, which counts the rows of `order`.

    Raises:
        UserError: unknown measures or distance, an empty test set or order, "divergence" without
            texts, a NaN or an infinity, wrong ranks or dtypes, unequal D.
    """
    check_measures(tuple(measures))
    check_distance(distance)
    train, test = check_pair(train, test)
    check(len(test) > 0, "trajectory: the test set is empty")
    check(len(order) > 0, "trajectory: the order is empty")
    check(
        "divergence" not in measures or texts is not None, "trajectory: divergence needs the texts"
    )
    names, groups = _number_groups([""] * len(test) if tasks is None else tasks)
    check(len(groups) == len(test), f"{len(test)} test rows, but {len(groups)} tasks")
    columns = np.argsort(groups, kind="stable")  # a task's test embeddings side by side
    sizes = np.bincount(groups)
    # Positions 0 for the whole set and 1 + g for task g, in all that follows.
    parts = [columns, *np.split(columns, np.cumsum(sizes)[:-1])]

    followed: list[Measure] = []
    if set(PAIRS) & set(measures):
        followed.append(PairDistances(train, test[columns], sizes, distance, search.quiet))
    if "centroid" in measures:
        followed.append(Centroids(train, test, parts, distance))
    if "transport" in measures:
        followed.append(TransportCosts(train, test, parts, distance, search))
    if "divergence" in measures and texts is not None:
        followed.append(Divergences(texts[0], [[texts[1][row] for row in p] for p in parts]))

    steps = np.arange(1, -(-len(order) // batch_size) + 1)
    step = steps[(steps % every == 0) | (steps == len(steps))]
    ends = np.minimum(step * batch_size, len(order))
    size = max(1, min(search.block_size, PAIRS_AT_ONCE // len(test)))
    found = _follow(order, ends, size, followed, search)  # each (P, 1 + tasks)

    weights = _add_wsd(found, w_min, w_avg) if "wsd" in measures else None
    shown = {name: found[name] for name in MEASURES if name in measures}
    by_task = {
        task: {name: values[:, 1 + number] for name, values in shown.items()}
        for number, task in enumerate(names)
        if tasks is not None
    }
    whole = {name: values[:, 0] for name, values in shown.items()}
    return Trajectory(step, distance, whole, by_task, weights)


def _add_wsd(
    found: dict[str, np.ndarray], w_min: float, w_avg: float | None
) -> tuple[float, float]:
    """Makes "wsd" of the mean minimum "md" and of "average"; returns both weights."""
    md, ad = found["md"], found["average"]
    if w_avg is None:
        w_avg = float(md[-1, 0] / ad[-1, 0]) if ad[-1, 0] else 0.0
    found["wsd"] = w_min * md + w_avg * ad
    return float(w_min), float(w_avg)


def _follow(
    order: np.ndarray,
    ends: np.ndarray,
    size: int,
    followed: Sequence[Measure],
    search: Search,
) -> dict[str, np.ndarray]:
    """Values of every measure after the first `ends` rows of an order, `size` rows at a time."""
    solved = set(np.linspace(0, len(ends) - 1, min(TRANSPORTS, len(ends))).round().astype(int))
    found: dict[str, list[np.ndarray]] = {}
    point = 0
    for done in range(0, len(order), size):
        block = order[done : done + size]
        for measure in followed:
            measure.look(block)
        at = 0
        while at < len(block):
            stop = min(len(block), int(ends[point]) - done)
            for measure in followed:
                measure.add(slice(at, stop))
            if done + stop == ends[point]:
                for measure in followed:
                    for name, values in measure.values(point in solved).items():
                        found.setdefault(name, []).append(values)
                point += 1
            at = stop
        search.on_progress(len(block), len(order))
    return {name: np.array(values) for name, values in found.items()}


def _number_groups(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The different names in order of first appearance, and each one's number, (T,) int64."""
    known: dict[str, int] = {}
    numbers = np.array([known.setdefault(name, len(known)) for name in names], np.int64)
    return list(known), numbers


def _json(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
