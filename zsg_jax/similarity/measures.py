"""What is measured of a growing training set toward a test set: kept up as embeddings come."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from zsg_jax.runtime.progress import say
from zsg_jax.similarity.distances import euclidean
from zsg_jax.similarity.divergence import Divergence
from zsg_jax.similarity.embeddings import Embeddings, unit_block, unit_embeddings
from zsg_jax.similarity.search.cosine import cosine_matrix
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.sinkhorn import NotConverged
from zsg_jax.similarity.transport import optimal_transport


class Measure(Protocol):
    """What is known of the examples of an order seen so far, kept up as they come.

    `look` takes the next block of them, (B,) int64, and `add` counts a part of it as seen. `values`
    are (1 + G,) float64 by name: of the whole test set and of each task's part of it; what is worth
    solving at few points alone is NaN unless `solve`.
    """

    def look(self, block: np.ndarray) -> None: ...
    def add(self, part: slice) -> None: ...
    def values(self, solve: bool) -> dict[str, np.ndarray]: ...


class PairDistances:
    """Smallest, largest and average distances of all pairs of an example seen and a test one."""

    def __init__(
        self, train: Embeddings, test: Embeddings, sizes: np.ndarray, distance: str, search: Search
    ) -> None:
        """`sizes` (G,) counts the test examples of each task, side by side in `test`."""
        self._train, self._test, self._distance, self._search = train, test, distance, search
        self._sizes, self._starts = sizes, np.cumsum(sizes) - sizes
        tests, groups = int(sizes.sum()), len(sizes)
        self._nearest_T, self._farthest_T = np.full(tests, np.inf), np.full(tests, -np.inf)
        self._seen, self._sum_G = 0, np.zeros(groups)
        self._minimum, self._minimum_G = 0.0, np.zeros(groups)

    def look(self, block: np.ndarray) -> None:
        cosines = cosine_matrix(self._train[block], self._test, search=self._search)
        self._block = 0 - cosines if self._distance == "cosine" else euclidean(cosines)

    def add(self, part: slice) -> None:
        distances = self._block[part]
        self._nearest_T = np.minimum(self._nearest_T, distances.min(axis=0))
        self._farthest_T = np.maximum(self._farthest_T, distances.max(axis=0))
        minimum_BxG = np.minimum.reduceat(distances, self._starts, axis=1)
        self._minimum_G += minimum_BxG.sum(axis=0, dtype=np.float64)
        self._minimum += minimum_BxG.min(axis=1).sum(dtype=np.float64)
        columns_T = distances.sum(axis=0, dtype=np.float64)
        self._sum_G += np.add.reduceat(columns_T, self._starts)
        self._seen += len(distances)

    def values(self, solve: bool) -> dict[str, np.ndarray]:
        """Among them "md", the mean over examples of their minimum distance."""
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
    """Distance between the mean of the unit embeddings seen and that of the test ones."""

    def __init__(
        self, train: Embeddings, test: Embeddings, parts: Sequence[np.ndarray], distance: str
    ) -> None:
        self._train = train
        unit = unit_embeddings(test, "test").astype(np.float64)
        self._means_GxD = np.array([unit[part].mean(axis=0) for part in parts])
        self._sum_D, self._seen, self._distance = np.zeros(unit.shape[1]), 0, distance

    def look(self, block: np.ndarray) -> None:
        self._block = unit_block(self._train[block], "train", block)

    def add(self, part: slice) -> None:
        unit = self._block[part]
        self._sum_D += unit.sum(axis=0, dtype=np.float64)
        self._seen += len(unit)

    def values(self, solve: bool) -> dict[str, np.ndarray]:
        """For cosine 0 where a mean is zero."""
        mean_D = self._sum_D / self._seen
        if self._distance == "euclidean":
            return {"centroid": np.linalg.norm(self._means_GxD - mean_D, axis=1)}
        lengths_G = np.linalg.norm(self._means_GxD, axis=1) * np.linalg.norm(mean_D)
        product_G = self._means_GxD @ mean_D
        nothing_G = np.zeros_like(product_G)
        return {"centroid": 0 - np.divide(product_G, lengths_G, where=lengths_G > 0, out=nothing_G)}


class TransportCosts:
    """Cost of optimal transport from the examples seen to the test examples."""

    def __init__(
        self,
        train: Embeddings,
        test: Embeddings,
        parts: Sequence[np.ndarray],
        distance: str,
        search: Search,
    ) -> None:
        self._train, self._test, self._parts = train, test, parts
        self._distance, self._search = distance, search
        self._seen = np.empty(0, np.int64)

    def look(self, block: np.ndarray) -> None:
        self._block = block

    def add(self, part: slice) -> None:
        self._seen = np.append(self._seen, self._block[part])

    def values(self, solve: bool) -> dict[str, np.ndarray]:
        """NaN where no plan was found, with a message."""
        return {"transport": self._costs() if solve else np.full(len(self._parts), np.nan)}

    def _costs(self) -> np.ndarray:
        seen = self._train[self._seen]
        costs = np.zeros(len(self._parts))
        for number, part in enumerate(self._parts):
            if number == 1 and len(self._parts) == 2:
                costs[1] = costs[0]  # one task is the whole set
                break
            try:
                plan = optimal_transport(
                    seen, self._test[part], distance=self._distance, search=self._search
                )
            except NotConverged as error:
                # One point of a curve is no reason to end a study.
                say(f"trajectory: a point is left out: {error}")
                costs[number] = np.nan
            else:
                costs[number] = plan.cost
        return costs


class Divergences:
    """KL divergence of the words seen from those of the test examples."""

    def __init__(self, train: Sequence[str], parts: Sequence[Sequence[str]]) -> None:
        self._train, self._divergence = train, Divergence(parts)

    def look(self, block: np.ndarray) -> None:
        self._block = block

    def add(self, part: slice) -> None:
        self._divergence.add(self._train[index] for index in self._block[part])

    def values(self, solve: bool) -> dict[str, np.ndarray]:
        return {"divergence": self._divergence.values()}
