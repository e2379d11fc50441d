"""A pool and a test set, and what methods need of them, each computed when first asked for."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.coverage import Covered, coverage, list_length
from zsg_jax.arrangement.diverse import Neighbourhoods, neighbour_lists
from zsg_jax.arrangement.marginal import Marginal, marginal
from zsg_jax.arrangement.needs import Needs
from zsg_jax.arrangement.permutations import Tasks, number_tasks
from zsg_jax.arrangement.rounds import round_robin
from zsg_jax.arrangement.shares import Shares, weights
from zsg_jax.arrangement.turns import first_length, tmta
from zsg_jax.data.mixture import TargetSet
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.similarity.distances import (
    Distances,
    WeightedDistance,
    distances,
    of_statistics,
    wsd,
)
from zsg_jax.similarity.embeddings import Embeddings, SelectedEmbeddings
from zsg_jax.similarity.names import check_distance
from zsg_jax.similarity.search.cosine import RowStatistics, row_statistics, scan, top_k
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.search.scan import Found, Lists
from zsg_jax.similarity.transport import Transport, optimal_transport


class Comparison:
    """Embeddings of a pool beside those of a test set: their distances and TMTA's turns.

    Its length is that of the pool, from which training examples may be chosen.

    Attributes:
        tasks: (N,) int64, each training example's task as a number from 0, by first appearance.
        budget: examples wanted, None for all.
        distance: the distance that measures are made of.
        sets, set_index: the sets of test examples, and the number of each one's.
        shares: by the names in `Method.chosen_by`, the sets and what each has chosen.
    """

    def __init__(
        self,
        train: Embeddings,
        test: Embeddings,
        tasks: Tasks,
        *,
        budget: int | None,
        distance: str = "cosine",
        w_min: float = 1.0,
        w_avg: float | None = None,
        needs: Needs = Needs.NOTHING,
        search: Search = Search(),
        scores: Callable[[str], np.ndarray] | None = None,
        sets: Sequence[TargetSet] = (),
        set_index: np.ndarray | None = None,
    ) -> None:
        """Keeps everything and computes nothing.

        Args:
            train: (N, D) floats; only ever read by slices, so they may lie on disk.
            test: (T, D) floats.
            tasks: N names, or (N,) integers: each training example's task.
            budget: as methods take it.
            distance: "cosine" or "euclidean".
            w_min, w_avg: WSD's weights; None for the study's default, over examples or over tasks.
            needs: what is going to be asked for, as `methods.needs` tells; anything else takes a
                pass of its own.
            search: devices, block size and progress.
            scores: gives the numbers, (N,) float64, that the training examples carry under a name;
                None: they carry none.
            sets: the sets that the test examples stand in, which share what is chosen; (): they
                are one.
            set_index: (T,) int32 index into `sets` of each test example.

        Raises:
            UserError: another number of tasks than of examples, a negative budget, an unknown
                distance.
        """
        check(len(tasks) == len(train), f"{len(train)} training rows, but {len(tasks)} tasks")
        check(budget is None or budget >= 0, f"budget={budget}; it must not be negative")
        check_distance(distance)
        self._train, self._test, self.tasks = train, test, number_tasks(tasks)
        self.budget, self.distance = budget, distance
        self._needs = needs
        self._wsd = partial(wsd, w_min=w_min, w_avg=w_avg)
        self._search = search
        self._scores = scores
        self.sets, self.set_index = sets, set_index
        self.shares: dict[str, Shares] = {}
        self._by_sets: dict[str, np.ndarray] = {}
        self._known: dict[str, np.ndarray] = {}
        self._marginals: dict[int, Marginal] = {}

    def __len__(self) -> int:
        return len(self.tasks)

    @cached_property
    def nearest(self) -> Arrangement:
        """Every test example names its nearest remaining training example: TMTA `min`."""
        return self._turns(farthest=False)

    @cached_property
    def farthest(self) -> Arrangement:
        """Every test example names its farthest remaining training example: TMTA `max`."""
        return self._turns(farthest=True)

    @cached_property
    def rounds(self) -> Arrangement:
        """Every test example in turn takes its nearest remaining training example for itself."""
        return round_robin(
            self._train,
            self._test,
            budget=self.budget,
            first=self._first(farthest=False),
            shares=self._shares("rounds"),
            search=self._search,
        )

    @cached_property
    def covered(self) -> Covered:
        """Training examples in the order in which each adds most to how test examples are covered.

        Where test examples stand in sets, each counts as `shares.weights` has it.

        Raises:
            UserError: an empty test set, or a set with a budget.
        """
        check(len(self._test) > 0, "coverage: the test set is empty, so nothing can be covered")
        for one in self.sets:
            check(
                one.budget is None,
                f"coverage: the target set {one.name!r} has a budget, but a row is chosen for all "
                "sets at once; leave it out, or take targets",
            )
        counted = None if self.set_index is None else weights(self.sets, self.set_index)
        length = list_length(len(self), len(self._test))
        found = self._lists(farthest=False)
        if found is None:
            found = top_k(self._train, self._test, length, search=self._search)
        cosines, index = (one[:, :length] for one in found)
        return coverage(cosines, index, len(self), self.wanted, counted)

    def marginal(self, weight: int) -> Marginal:
        """Training examples by maximal marginal relevance with so many hundredths of relevance."""
        if weight not in self._marginals:
            lists, sets = self.neighbourhoods.lists, self._shares(f"mmr-{weight}")
            none = np.zeros(len(self), np.float32)
            relevances = [one.cosines.maximum if one is not None else none for one in self.parts]
            self._marginals[weight] = marginal(lists, relevances, weight, self.wanted, sets)
        return self._marginals[weight]

    def by_sets(self, name: str, order: Callable[["Comparison"], np.ndarray]) -> np.ndarray:
        """An order of the pool by how near its examples are, (n,) int64.

        Where test examples stand in sets, these choose in turns by their shares, each what is first
        of those left in the order toward itself; what they have chosen is then in `shares`.

        Args:
            name: of that order.
            order: gives it toward the test examples of a comparison.
        """
        sets = self._shares(name)
        if sets is None:
            return order(self)
        if name not in self._by_sets:
            own: list[list[int]] = [
                order(one).tolist() if one is not None else [] for one in self.parts
            ]
            chosen = sets.choose([iter(one) for one in own], self.wanted)
            self._by_sets[name] = np.array(chosen, np.int64)
        return self._by_sets[name]

    @cached_property
    def parts(self) -> "list[Comparison | None]":
        """The pool beside each set of test examples alone, beside all where they are one set.

        None stands for a set without test examples.
        """
        if self.set_index is None:
            return [self]
        members = [np.flatnonzero(self.set_index == number) for number in range(len(self.sets))]
        return [self._toward(tests) if len(tests) else None for tests in members]

    def _toward(self, tests: np.ndarray) -> "Comparison":
        other = Comparison(
            self._train,
            np.asarray(self._test[tests]),
            self.tasks,
            budget=self.budget,
            distance=self.distance,
            search=self._search,
        )
        other._wsd = self._wsd
        return other

    @cached_property
    def cosines(self) -> RowStatistics:
        """Each training example's cosines over the test examples."""
        if Needs.STATISTICS in self._needs:
            assert self._scanned.statistics is not None
            return self._scanned.statistics
        return row_statistics(self._train, self._test, search=self._search)

    @cached_property
    def distances(self) -> Distances:
        """Each training example's distances over the test examples."""
        return of_statistics(self.cosines, self.distance)

    @cached_property
    def wsd(self) -> WeightedDistance:
        """Each training example's Weighted Similarity Distance."""
        return self._wsd(self.distances.minimum, self.distances.average)

    @cached_property
    def own_wsd(self) -> WeightedDistance:
        """Each training example's WSD with its own task's weight of the average."""
        return self._wsd(self.distances.minimum, self.distances.average, groups=self.tasks)

    @cached_property
    def task_wsd(self) -> WeightedDistance:
        """The WSD of each task's mean embedding, tasks in order of first appearance."""
        found = self._scanned if Needs.TASK_MEANS in self._needs else None
        found = found or scan(self._train, self._test, groups=self.tasks, search=self._search)
        assert found.means is not None
        of_tasks = distances(found.means, self._test, distance=self.distance, search=self._search)
        return self._wsd(of_tasks.minimum, of_tasks.average)

    def score(self, column: str) -> np.ndarray:
        """The number that each training example carries in a field, (N,) float64.

        Raises:
            UserError: one carries none.
        """
        if column not in self._known:
            if self._scores is None:
                raise UserError(f"embeddings alone have no {column!r} to be ordered by; give rows")
            self._known[column] = self._scores(column)
        return self._known[column]

    @cached_property
    def neighbourhoods(self) -> Neighbourhoods:
        """Which training examples are near to one another."""
        return Neighbourhoods(neighbour_lists(self._train, search=self._search))

    @cached_property
    def transport(self) -> Transport:
        """What each training example pays under the optimal transport to the test examples."""
        return self._transport(exact=None)

    @cached_property
    def sinkhorn(self) -> Transport:
        """The same under Sinkhorn's plan, wherever memory would hold the exact one too."""
        return self._transport(exact=False)

    def _transport(self, exact: bool | None) -> Transport:
        return optimal_transport(
            self._train, self._test, distance=self.distance, exact=exact, search=self._search
        )

    def within_budget(self, order: np.ndarray) -> Arrangement:
        """The first of an order of the pool, as many as the budget allows; all are of turn 1."""
        order = order[: self.budget]
        return Arrangement(order, np.ones(len(order), np.int32))

    @property
    def wanted(self) -> int:
        """How many examples the budget asks of this pool."""
        return len(self) if self.budget is None else min(self.budget, len(self))

    def served(self, rows: np.ndarray, tests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cosines of (n,) training examples and (t,) test examples, n and t at least 1.

        Returns:
            (n,) float32, of each training example with its nearest test example, and (t,) of each
            test example with its nearest training example.
        """
        train, test = SelectedEmbeddings(self._train, rows), np.asarray(self._test[tests])
        found = scan(train, test, nearest=1, statistics=True, search=self._search.quiet)
        assert found.statistics is not None
        assert found.nearest is not None
        return found.statistics.maximum, found.nearest[0][:, 0]

    @cached_property
    def _scanned(self) -> Found:
        """All that was announced, of one pass."""
        length = first_length(len(self), max(1, len(self._test)), self.budget)
        return scan(
            self._train,
            self._test,
            nearest=length if Needs.NEAREST in self._needs else 0,
            farthest=length if Needs.FARTHEST in self._needs else 0,
            statistics=Needs.STATISTICS in self._needs,
            groups=self.tasks if Needs.TASK_MEANS in self._needs else None,
            search=self._search,
        )

    def _lists(self, *, farthest: bool) -> Lists | None:
        """The first lists of what is nearest, or farthest, where they were announced."""
        if (Needs.FARTHEST if farthest else Needs.NEAREST) not in self._needs:
            return None
        return self._scanned.farthest if farthest else self._scanned.nearest

    def _first(self, *, farthest: bool) -> np.ndarray | None:
        found = self._lists(farthest=farthest)
        return None if found is None else found[1]

    def _turns(self, *, farthest: bool) -> Arrangement:
        return tmta(
            self._train,
            self._test,
            budget=self.budget,
            farthest=farthest,
            search=self._search,
            first=self._first(farthest=farthest),
            shares=self._shares("farthest" if farthest else "nearest"),
        )

    def _shares(self, what: str) -> Shares | None:
        if self.set_index is not None and what not in self.shares:
            self.shares[what] = Shares(self.sets, self.set_index)
        return self.shares.get(what)
