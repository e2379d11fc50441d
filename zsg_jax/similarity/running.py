"""Measures of a growing set of rows toward the test rows: kept up as rows come, never begun anew.

Each has one value for the whole test set and one for each task of it, in this order.
"""

from collections.abc import Sequence

import numpy as np

from zsg_jax.runtime.progress import say
from zsg_jax.similarity.rows import unit_rows
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.stored import Rows

# Of transport: larger than for the plan itself, since a cost is wanted alone, and sooner met.
EPSILONS, TOLERANCE = (0.01, 0.03, 0.1), 5e-3


def number_groups(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The different names in order of first appearance, and each name's place there, (T,) int64."""
    places: dict[str, int] = {}
    numbers = np.array([places.setdefault(name, len(places)) for name in names], np.int64)
    return list(places), numbers


class Pairs:
    """Smallest, largest and average distances over all pairs of a row seen and a test row."""

    def __init__(self, sizes: np.ndarray) -> None:
        """Takes the number of test rows of each task, (G,); these stand side by side."""
        self._sizes, self._starts = sizes, np.cumsum(sizes) - sizes
        tests, groups = int(sizes.sum()), len(sizes)
        self._nearest_T, self._farthest_T = np.full(tests, np.inf), np.full(tests, -np.inf)
        self._seen, self._sum_G = 0, np.zeros(groups)
        self._minimum, self._minimum_G = 0.0, np.zeros(groups)

    def add(self, distances: np.ndarray) -> None:
        """Takes in (B, T) distances of B rows, at least one."""
        self._nearest_T = np.minimum(self._nearest_T, distances.min(axis=0))
        self._farthest_T = np.maximum(self._farthest_T, distances.max(axis=0))
        minimum_BxG = np.minimum.reduceat(distances, self._starts, axis=1)
        self._minimum_G += minimum_BxG.sum(axis=0, dtype=np.float64)
        self._minimum += minimum_BxG.min(axis=1).sum(dtype=np.float64)
        columns_T = distances.sum(axis=0, dtype=np.float64)
        self._sum_G += np.add.reduceat(columns_T, self._starts)
        self._seen += len(distances)

    def values(self) -> dict[str, np.ndarray]:
        """Each (1 + G,) float64; "md" is the mean over rows of their minimum distance."""
        tests = self._sizes.sum()
        nearest_G = np.add.reduceat(self._nearest_T, self._starts)
        minimum_G = np.minimum.reduceat(self._nearest_T, self._starts)
        maximum_G = np.maximum.reduceat(self._farthest_T, self._starts)
        return {
            "minimum": np.append(minimum_G.min(), minimum_G),
            "maximum": np.append(maximum_G.max(), maximum_G),
            "nearest": np.append(nearest_G.sum() / tests, nearest_G / self._sizes),
            "average": np.append(self._sum_G.sum() / tests, self._sum_G / self._sizes) / self._seen,
            "md": np.append(self._minimum, self._minimum_G) / self._seen,
        }


class Centroids:
    """Distance between the mean of the unit rows seen and the mean test row."""

    def __init__(self, test: Rows, parts: Sequence[np.ndarray], metric: str) -> None:
        """Takes (T, D) test rows, and the rows of the whole set and of each task."""
        unit = unit_rows(test, "test").astype(np.float64)
        self._means_GxD = np.array([unit[part].mean(axis=0) for part in parts])
        self._sum_D, self._seen, self._metric = np.zeros(unit.shape[1]), 0, metric

    def add(self, unit: np.ndarray) -> None:
        """Takes in (B, D) unit rows."""
        self._sum_D += unit.sum(axis=0, dtype=np.float64)
        self._seen += len(unit)

    def values(self) -> np.ndarray:
        """(1 + G,) float64; for cosine 0 where a mean is zero."""
        mean_D = self._sum_D / self._seen
        if self._metric == "euclidean":
            return np.linalg.norm(self._means_GxD - mean_D, axis=1)
        lengths_G = np.linalg.norm(self._means_GxD, axis=1) * np.linalg.norm(mean_D)
        product_G = self._means_GxD @ mean_D
        return 0 - np.divide(
            product_G, lengths_G, where=lengths_G > 0, out=np.zeros_like(product_G)
        )


class Plans:
    """Cost of optimal transport from the rows seen to the test rows."""

    def __init__(
        self,
        train: Rows,
        test: Rows,
        parts: Sequence[np.ndarray],
        metric: str,
        search: Search,
    ) -> None:
        """Takes (N, D) and (T, D) rows, and the test rows of the whole set and of each task."""
        self._train, self._test, self._parts = train, test, parts
        self._metric, self._search = metric, search

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Costs (1 + G,) float64 from `rows`, (n,) int64 places in the training rows.

        NaN where no plan was found, which is told.
        """
        # Imported here: ott-jax takes a second, and few trajectories need it.
        from zsg_jax.similarity.transport import NotConverged, optimal_transport

        seen = self._train[rows]
        costs = np.zeros(len(self._parts))
        for place, part in enumerate(self._parts):
            if place == 1 and len(self._parts) == 2:
                costs[1] = costs[0]  # one task is the whole set
                break
            try:
                plan = optimal_transport(
                    seen,
                    self._test[part],
                    metric=self._metric,
                    relative_epsilons=EPSILONS,
                    tolerance=TOLERANCE,
                    search=self._search,
                )
            except NotConverged as error:
                # One point of a curve is no reason to end a study.
                say(f"trajectory: a point is left out: {error}")
                costs[place] = np.nan
            else:
                costs[place] = plan.cost
        return costs
