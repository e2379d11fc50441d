"""The arrangements a study can name, and how each is made from the embeddings."""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jax.sharding import Mesh

from zsg_jax.arrangement import permutations as orders
from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.subsets import halves, turn_range
from zsg_jax.arrangement.tmta import tmta
from zsg_jax.errors import UserError, check, nearest
from zsg_jax.similarity.distances import Distances, WeightedDistance, distances, group_means, wsd


class Inputs:
    """A pool and a test set, and what methods need of them, computed when first asked for."""

    def __init__(
        self,
        train: np.ndarray,
        test: np.ndarray,
        tasks: Sequence[str],
        *,
        budget: int | None,
        mesh: Mesh | None = None,
        block_rows: int = 8192,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Takes embeddings (N, D) and (T, D) float32, each training row's task, `tmta`'s arguments.

        Raises:
            UserError: unless there are as many tasks as training rows.
        """
        check(len(tasks) == len(train), f"{len(train)} training rows, but {len(tasks)} tasks")
        self._on_progress = on_progress
        self._train, self._test, self.tasks = train, test, tasks
        self.budget, self._mesh, self._block_rows = budget, mesh, block_rows

    @property
    def rows(self) -> int:
        """How many training rows may be chosen."""
        return len(self.tasks)

    @cached_property
    def nearest(self) -> Arrangement:
        """Every test row names its nearest remaining training row: TMTA `min`."""
        return self._turns(farthest=False)

    @cached_property
    def farthest(self) -> Arrangement:
        """Every test row names its farthest remaining training row: TMTA `max`."""
        return self._turns(farthest=True)

    @cached_property
    def distances(self) -> Distances:
        """Each training row's distances over the test rows."""
        return self._distances(self._train)

    @cached_property
    def wsd(self) -> WeightedDistance:
        """Each training row's Weighted Similarity Distance."""
        return wsd(self.distances.minimum, self.distances.average)

    @cached_property
    def task_wsd(self) -> WeightedDistance:
        """The WSD of each task's mean embedding, tasks in order of first appearance."""
        means = group_means(self._train, orders.number_tasks(self.tasks), "train")
        of_tasks = self._distances(means)
        return wsd(of_tasks.minimum, of_tasks.average)

    def min_max(self) -> Arrangement:
        """Half the budget of TMTA `min`, then half of `max` backward; see `halves`."""
        return halves(self.nearest, self.farthest, self._wanted)

    def max_min(self) -> Arrangement:
        """Half the budget of TMTA `max`, then half of `min` backward; see `halves`."""
        return halves(self.farthest, self.nearest, self._wanted)

    @property
    def _wanted(self) -> int:
        return self.rows if self.budget is None else min(self.budget, self.rows)

    def _distances(self, rows: np.ndarray) -> Distances:
        return distances(rows, self._test, mesh=self._mesh, block_rows=self._block_rows)

    def _turns(self, *, farthest: bool) -> Arrangement:
        return tmta(
            self._train,
            self._test,
            budget=self.budget,
            farthest=farthest,
            mesh=self._mesh,
            block_rows=self._block_rows,
            on_progress=self._on_progress,
        )


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
    "wsd-nft": _fine(lambda inputs: inputs.wsd.distance, False),
    "wsd-fft": _fine(lambda inputs: inputs.wsd.distance, True),
    "min-nft": _fine(lambda inputs: inputs.distances.minimum, False),
    "min-fft": _fine(lambda inputs: inputs.distances.minimum, True),
    "max-nft": _fine(lambda inputs: inputs.distances.maximum, False),
    "max-fft": _fine(lambda inputs: inputs.distances.maximum, True),
    "avg-nft": _fine(lambda inputs: inputs.distances.average, False),
    "avg-fft": _fine(lambda inputs: inputs.distances.average, True),
    # Coarse grain: whole tasks by the WSD of their mean embedding.
    "coarse-nft": _coarse(False),
    "coarse-fft": _coarse(True),
}
SHUFFLING = frozenset({"tmta-rt", "tmta-random", "random"})
TURNS = "tmta-turns-"  # tmta-turns-A-B: the turns [A, B) of tmta-min
_RANGE = re.compile(rf"{TURNS}([1-9][0-9]{{0,8}})-([1-9][0-9]{{0,8}})")


def parse(name: str, seed: int) -> tuple[str, int]:
    """Splits "tmta-rt@3" into method and seed; a name without @ has the given `seed`.

    Raises:
        UserError: for an unknown method, or a seed on a method that draws nothing.
    """
    if "," in name:
        example = ", ".join(f"'{part.strip()}'" for part in name.split(","))
        raise UserError(
            f"arrangement.methods: several names are written as a tuple, in quotes for the shell: "
            f'--config.arrangement.methods="({example})"'
        )
    method, at, own = name.partition("@")
    if method.startswith(TURNS):
        check(
            _turns(method) is not None,
            f"arrangement.methods: {name!r}: write {TURNS}A-B for the turns from A up to, but "
            f"without, B, 1 ≤ A < B, as in {TURNS}1-6",
        )
    elif method not in METHODS:
        names = [*METHODS, f"{TURNS}A-B"]
        raise UserError(
            f"arrangement.methods: {name!r} is unknown; choose from {', '.join(names)}"
            f"{nearest(method, names)}"
        )
    if not at:
        return method, seed
    if method not in SHUFFLING:
        raise UserError(f"arrangement.methods: {name!r} has a seed, but {method} draws nothing")
    if not own.isdecimal() or str(int(own)) != own:
        raise UserError(f"arrangement.methods: {name!r}: after @ stands a whole number from 0")
    return method, int(own)


def check_methods(names: Sequence[str]) -> None:
    """Checks that `names` can be arranged and compared.

    Raises:
        UserError: if there is none, one is unknown, or one stands twice.
    """
    for name in names:
        parse(name, 0)
    if not names or len(set(names)) != len(names):
        raise UserError(f"arrangement.methods={tuple(names)} must be different names, at least one")


def arrange(name: str, inputs: Inputs, seed: int) -> Arrangement:
    """The arrangement that `name` stands for; `seed` is for methods that shuffle.

    Raises:
        UserError: for a name that `parse` refuses, or turns of which there are too few.
    """
    method, own_seed = parse(name, seed)
    turns = _turns(method)
    if turns is None:
        return METHODS[method](inputs, own_seed)
    there = len(inputs.nearest.turn_sizes)
    more = "" if inputs.budget is None else " or raise arrangement.budget"
    check(
        turns[1] - 1 <= there,
        f"arrangement.methods: {name!r} ends with turn {turns[1] - 1}, but there are {there}; ask "
        f"for earlier turns{more}",
    )
    return turn_range(inputs.nearest, *turns)


def made_with(name: str, inputs: Inputs) -> dict[str, Any]:
    """What else a reader of the arrangement `name` must know: the weights of its WSD, if any."""
    weighted = {"wsd": "wsd", "coarse": "task_wsd"}.get(name.split("-")[0])
    if weighted is None:
        return {}
    _, w_min, w_avg = getattr(inputs, weighted)
    return {"distance": "w_min·MD + w_avg·AD, d = -cos", "w_min": w_min, "w_avg": w_avg}


def _turns(method: str) -> tuple[int, int] | None:
    """(A, B) of a name of turns, None of any other."""
    match = _RANGE.fullmatch(method)
    a, b = (int(match[1]), int(match[2])) if match else (0, 0)
    return (a, b) if a < b else None
