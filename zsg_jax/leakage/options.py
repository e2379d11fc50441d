"""What counts as a leak, in which space."""

from dataclasses import dataclass

from zsg_jax.runtime.errors import check
from zsg_jax.similarity.encoders.address import STATES
from zsg_jax.similarity.names import check_cosine

NEAR = 0.95
# Hidden states of one model all point much the same way.
NEAR_STATES = 0.999


def near_in(encoder: str) -> float:
    """The cosine from which examples are near in the space of this name, unless one is given."""
    return NEAR_STATES if encoder.startswith(STATES) else NEAR


MOST_WORDS = 10_000  # of an n-gram: more than any passage that could be looked for


@dataclass(frozen=True)
class LeakageOptions:
    """What counts as a leak.

    Attributes:
        threshold: cosine from which examples are near, above 0, at most 1.
        words: of an n-gram, at most `MOST_WORDS`.
        max_test_rows, task_share: when an n-gram is template: see `NgramIndex`.
        limit: pairs of a kind that are written, 0 for none.

    Raises:
        UserError: for a setting out of range.
    """

    threshold: float = NEAR
    words: int = 13
    max_test_rows: int = 10
    task_share: float = 0.5
    limit: int = 10_000

    def __post_init__(self) -> None:
        check_cosine(f"threshold={self.threshold}", self.threshold)
        check(0 <= self.task_share <= 1, f"task_share={self.task_share}: it must be from 0 to 1")
        for name, least in (("words", 1), ("max_test_rows", 1), ("limit", 0)):
            value = getattr(self, name)
            check(value >= least, f"{name}={value}: it must be at least {least}")
        check(self.words <= MOST_WORDS, f"words={self.words}: it must be at most {MOST_WORDS}")
