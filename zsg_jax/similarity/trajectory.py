"""Similarity of the data seen so far, against steps taken in an arrangement's order."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from zsg_jax.durable import need_json, write_json
from zsg_jax.similarity.cosine import cosine_matrix


@dataclass(frozen=True)
class Trajectory:
    """How near the training data seen so far are to the test set (arXiv 2406.11721, similarity).

    Attributes:
        step: (S,) int64, from 1.
        mean_similarity: (S,) float64, mean cosine over all pairs of a row seen and a test row.
        best_similarity: (S,) float64, mean over test rows of the best cosine with a row seen.
    """

    step: np.ndarray
    mean_similarity: np.ndarray
    best_similarity: np.ndarray


FILE = "similarity.json"
FIELDS = ("step", "mean_similarity", "best_similarity")


def save_trajectory(path: Path, points: Trajectory) -> None:
    """Writes a trajectory as JSON, a list for each field."""
    write_json(path, {field: getattr(points, field).tolist() for field in FIELDS})


def load_trajectory(path: Path) -> Trajectory:
    """Reads what `save_trajectory` wrote.

    Raises:
        UserError: if it is missing or damaged.
    """
    content = need_json(path, FIELDS)
    return Trajectory(**{field: np.asarray(content[field]) for field in FIELDS})


def trajectory(
    train: np.ndarray,
    test: np.ndarray,
    order: np.ndarray,
    *,
    batch_size: int,
    every: int = 1,
    mesh: Mesh | None = None,
    block_rows: int = 8192,
    on_progress: Callable[[int], object] = lambda rows: None,
) -> Trajectory:
    """Follows an order step by step, one pass over its rows, never the whole matrix.

    Args:
        train, test: (N, D) and (T, D) float32 embeddings.
        order: (n,) int64 training rows; a step takes the next `batch_size`.
        every: steps between points; the last step is always one.
        mesh, block_rows: as `cosine_matrix` takes them.
        on_progress: told how many rows more are compared.
    """
    steps = -(-len(order) // batch_size)
    totals, best_of_step = np.zeros(steps), np.full((steps, len(test)), -np.inf, np.float32)
    # Whole steps a block, so that a step's rows stand in one block.
    rows = max(1, block_rows // batch_size) * batch_size
    for start in range(0, len(order), rows):
        block = order[start : start + rows]
        cosines = cosine_matrix(train[block], test, mesh=mesh, block_rows=block_rows)
        starts = np.arange(0, len(block), batch_size)
        part = slice(start // batch_size, start // batch_size + len(starts))
        totals[part] = np.add.reduceat(cosines.sum(axis=1, dtype=np.float64), starts)
        best_of_step[part] = np.maximum.reduceat(cosines, starts, axis=0)
        on_progress(len(block))
    seen = np.minimum(np.arange(1, steps + 1) * batch_size, len(order))
    mean = np.cumsum(totals) / (seen * len(test))
    best = np.maximum.accumulate(best_of_step, axis=0).mean(axis=1, dtype=np.float64)
    number = np.arange(1, steps + 1)
    shown = (number % every == 0) | (number == steps)
    return Trajectory(number[shown], mean[shown], best[shown])
