"""The arrangements a study can name, and how each is made from the embeddings."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from jax.sharding import Mesh

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.permutations import farthest_first, nearest_first, shuffled
from zsg_jax.arrangement.tmta import tmta
from zsg_jax.errors import UserError, nearest


class Turns:
    """TMTA's turns of one pool against one test set, computed when first asked for."""

    def __init__(
        self,
        train: np.ndarray,
        test: np.ndarray,
        *,
        budget: int | None,
        mesh: Mesh | None = None,
        block_rows: int = 8192,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Takes embeddings (N, D) and (T, D) float32, and the arguments of `tmta`."""
        self._on_progress = on_progress
        self._train, self._test = train, test
        self._budget, self._mesh, self._block_rows = budget, mesh, block_rows

    @cached_property
    def nearest(self) -> Arrangement:
        """Every test row names its nearest remaining training row: TMTA `min`."""
        return self._turns(farthest=False)

    @cached_property
    def farthest(self) -> Arrangement:
        """Every test row names its farthest remaining training row: TMTA `max`."""
        return self._turns(farthest=True)

    def _turns(self, *, farthest: bool) -> Arrangement:
        return tmta(
            self._train,
            self._test,
            budget=self._budget,
            farthest=farthest,
            mesh=self._mesh,
            block_rows=self._block_rows,
            on_progress=self._on_progress,
        )


METHODS: dict[str, Callable[[Turns, int], Arrangement]] = {
    # Algorithm 1 as it stands, and with the farthest row named instead of the nearest.
    "tmta-min": lambda turns, seed: turns.nearest,
    "tmta-max": lambda turns, seed: turns.farthest,
    # The rows of tmta-min three ways: turns forward, turns backward, shuffled.
    "tmta-nft": lambda turns, seed: nearest_first(turns.nearest),
    "tmta-fft": lambda turns, seed: farthest_first(turns.nearest),
    "tmta-rt": lambda turns, seed: shuffled(turns.nearest, seed),
}
SHUFFLING = frozenset({"tmta-rt"})


def parse(name: str, seed: int) -> tuple[str, int]:
    """Splits "tmta-rt@3" into method and seed; a name without @ has the given `seed`.

    Raises:
        UserError: for an unknown method, or a seed on a method that draws nothing.
    """
    method, at, own = name.partition("@")
    if method not in METHODS:
        raise UserError(
            f"arrangement.methods: {name!r} is unknown; choose from {', '.join(METHODS)}"
            f"{nearest(method, METHODS)}"
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


def arrange(name: str, turns: Turns, seed: int) -> Arrangement:
    """The arrangement that `name` stands for; `seed` is for methods that shuffle."""
    method, own_seed = parse(name, seed)
    return METHODS[method](turns, own_seed)
