"""Distances of the data seen so far to the test set, against steps taken in an order."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsg_jax.runtime.errors import UserError, check, did_you_mean
from zsg_jax.runtime.files import need_json, write_json
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.embeddings import Embeddings, check_pair
from zsg_jax.similarity.measures import (
    Centroids,
    Divergences,
    Measure,
    PairDistances,
    TransportCosts,
)
from zsg_jax.similarity.names import check_distance
from zsg_jax.similarity.search.options import Search

# Of the examples seen and the test examples (arXiv 2406.11721, similarity).
MEASURES = {
    "nearest": "distance from a test example to the nearest one seen, mean over the test examples",
    "average": "average distance over all pairs of an example seen and a test example",
    "minimum": "smallest distance of all pairs",
    "maximum": "largest distance of all pairs",
    "wsd": "Weighted Similarity Distance, mean over the examples seen",
    "centroid": "distance between the mean embedding seen and the mean test embedding",
    "transport": "cost of optimal transport from the examples seen to the test examples",
    "divergence": "KL divergence of the word 2-grams seen from the test examples' 2-grams, nats",
}
DEFAULT = ("nearest", "average")
PAIRS = ("minimum", "maximum", "average", "nearest", "wsd")
STUDY_EVERY = 160  # examples between two points of the study's trajectories
PAIRS_AT_ONCE = 2**24  # cosines on the host at a time
TRANSPORTS = 20  # points at most: each is a problem of its own
FILE = "similarity.json"


@dataclass(frozen=True)
class Trajectory:
    """How far the training data seen so far are from the test set, in some of `MEASURES`.

    Attributes:
        step: (P,) floats, steps taken, a fraction where a point lies inside a step.
        distance: "cosine", d = -cos, or "euclidean".
        values: measure → (P,) float64, toward the whole test set; NaN where not measured.
        by_task: task of the test examples → the same toward its examples alone.
        weights: (w_min, w_avg) of "wsd", the same for all tasks; None without it.
        examples: (P,) int64, examples seen; None where a file does not tell.
    """

    step: np.ndarray
    distance: str
    values: dict[str, np.ndarray]
    by_task: dict[str, dict[str, np.ndarray]]
    weights: tuple[float, float] | None = None
    examples: np.ndarray | None = None


def check_measures(names: Sequence[str]) -> None:
    """Checks that a trajectory can be made of `names`.

    Raises:
        UserError: if there is none, one is unknown, or one stands twice.
    """
    for name in names:
        check(
            name in MEASURES,
            f"{setting('similarity.trajectory')}: {name!r} is unknown; choose from "
            f"{', '.join(MEASURES)}{did_you_mean(name, MEASURES)}",
        )
    if not names or len(set(names)) != len(names):
        given = setting("similarity.trajectory", tuple(names))
        raise UserError(f"{given} must be different names, at least 1")


def save_trajectory(path: Path, points: Trajectory) -> None:
    """Writes a trajectory as JSON: of every measure the whole set's values and each task's.

    `study` marks the points that the study has too; the last one need not be.
    """
    measures = {
        name: {
            "means": MEASURES[name],
            "all": _json(values),
            "by_task": {task: _json(own[name]) for task, own in points.by_task.items()},
        }
        for name, values in points.values.items()
    }
    head = {
        "step": [int(step) if step == int(step) else step for step in points.step.tolist()],
        "metric": points.distance,
        "weights": points.weights,
    }
    if points.examples is not None:
        head["examples"] = points.examples.tolist()
        head["study"] = (points.examples % STUDY_EVERY == 0).tolist()
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
            np.array(content["step"], np.float64),
            content["metric"],
            {name: _array(own["all"]) for name, own in measures.items()},
            {t: {k: _array(own["by_task"][t]) for k, own in measures.items()} for t in tasks},
            tuple(content["weights"]) if content["weights"] else None,
            np.array(content["examples"], np.int64) if "examples" in content else None,
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
    """Follows an order, one pass over its examples, a block at a time: never the whole matrix.

    Every measure is kept up as examples come, but for optimal transport, which is solved anew, and
    for that at 20 points at most, evenly spaced, the first and the last included.

    Args:
        train, test: (N, D) and (T, D) floats, T at least 1.
        order: (n,) int64 training examples; a step takes the next `batch_size`.
        every: steps between evaluations; each is a point, as are the study's and the end.
        measures: names from `MEASURES`.
        distance: "cosine" or "euclidean".
        tasks: T names, each test example's task; None for no task.
        texts: N and T texts, for "divergence".
        w_min, w_avg: weights of "wsd"; without `w_avg`, mean(MD) / mean(AD) over the examples of
            `order` and the whole test set.
        search: devices, block size and progress, which counts the examples of `order`.

    Raises:
        UserError: unknown measures or distance, an empty test set or order, "divergence" without
            texts, a NaN or an infinity, wrong ranks or dtypes, unequal D.
    """
    check_measures(tuple(measures))
    check_distance(distance)
    train, test = check_pair(train, test)
    check(len(test) > 0, "trajectory: the test set is empty")
    check(len(order) > 0, "trajectory: the order is empty")
    check(tasks is None or len(tasks) == len(test), "trajectory: each test example needs its task")
    named = [""] * len(test) if tasks is None else list(tasks)
    names = list(dict.fromkeys(named))
    number = {name: i for i, name in enumerate(names)}
    groups = np.array([number[name] for name in named])
    followed = _followed(train, test, groups, measures, distance, texts, search)
    ends = points(len(order), batch_size, every)
    size = max(1, min(search.block_size, PAIRS_AT_ONCE // len(test)))
    found = _follow(order, ends, size, followed, search)  # each (P, 1 + tasks)
    weights = _add_wsd(found, w_min, w_avg) if "wsd" in measures else None
    shown = {name: found[name] for name in MEASURES if name in measures}
    by_task = {
        task: {name: values[:, 1 + number[task]] for name, values in shown.items()}
        for task in names
        if tasks is not None
    }
    whole = {name: values[:, 0] for name, values in shown.items()}
    # The last step may hold fewer examples than the others.
    step = np.where(ends == len(order), -(-ends // batch_size), ends / batch_size)
    return Trajectory(step, distance, whole, by_task, weights, ends)


def points(examples: int, batch_size: int, every: int) -> np.ndarray:
    """(P,) int64: after how many examples of an order there is a point.

    After every 160, as in the study, whatever the batch size; after every `every` steps, where the
    loss is taken; and after the last one.
    """
    strides = STUDY_EVERY, every * batch_size
    return np.unique(
        np.concatenate([*(np.arange(n, examples + 1, n) for n in strides), [examples]])
    )


def _followed(
    train: Embeddings,
    test: Embeddings,
    groups: np.ndarray,
    measures: Collection[str],
    distance: str,
    texts: tuple[Sequence[str], Sequence[str]] | None,
    search: Search,
) -> list[Measure]:
    """What keeps the measures up; `groups` is (T,), each test example's task from 0."""
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
    if "divergence" in measures:
        if texts is None:
            raise UserError("trajectory: divergence needs the texts")
        followed.append(Divergences(texts[0], [[texts[1][j] for j in part] for part in parts]))
    return followed


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
    """Values of every measure after the first `ends` examples of an order, `size` at a time."""
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


def _json(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _array(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], np.float64)
