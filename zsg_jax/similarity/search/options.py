"""How a search runs: on which devices, how many training embeddings at a time, and who follows it.

None of it ever changes a bit of a result.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from jax.sharding import Mesh

from zsg_jax.runtime.errors import check

Progress = Callable[[int, int], object]


def ignore(more: int, of: int) -> None:
    """Progress that nobody follows."""


@dataclass(frozen=True)
class Search:
    """Devices, block size and progress of whatever compares training with test embeddings.

    Attributes:
        mesh: devices to spread the training embeddings over, all its axes alike; None takes one.
        block_size: training embeddings that a device takes at a time.
        on_progress: called after every block with how many training embeddings it had, and how
            many the pass has in all.
    """

    mesh: Mesh | None = None
    block_size: int = 8192
    on_progress: Progress = ignore

    def __post_init__(self) -> None:
        check(self.block_size >= 1, f"block_size={self.block_size}: it must be at least 1")

    def with_progress(self, on_progress: Progress) -> "Search":
        """The same search, followed by `on_progress`."""
        return dataclasses.replace(self, on_progress=on_progress)

    @property
    def quiet(self) -> "Search":
        """The same search without progress: for the parts of what counts its own."""
        return self.with_progress(ignore)
