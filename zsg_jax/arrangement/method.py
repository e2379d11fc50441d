"""What a method of arranging is, and how names that hold numbers or fields stand for some."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.needs import Needs

if TYPE_CHECKING:  # the names of methods are known without what compares by them
    from zsg_jax.arrangement.comparison import Comparison


class Criterion(NamedTuple):
    """What methods order or choose by: a distance to the test set, or another number.

    Attributes:
        meaning: a few words, in which {d} stands for the distance of two embeddings.
        distance: gives it for each training example, (N,) floats.
        needs: what it asks of a comparison.
        facts: gives what else decides it, as JSON values.
        rank: (N,) floats that sort as the distance does, where rounding gives that more ties.
    """

    meaning: str
    distance: Callable[[Comparison], np.ndarray]
    needs: Needs = Needs.STATISTICS
    facts: Callable[[Comparison], dict[str, Any]] = lambda comparison: {}
    rank: Callable[[Comparison], np.ndarray] | None = None


class Method(NamedTuple):
    """How one arrangement is made.

    Attributes:
        arrange: gives it, of a comparison and a seed.
        needs: what it asks of a comparison, so that one pass over the embeddings gives it all.
        criterion: what it goes by; None: TMTA's turns, or nothing that depends on the test set.
        shuffles: whether the seed matters, so that NAME@SEED has a meaning.
        by_task: whether the tasks of the training examples matter.
        facts: gives what else is to be told of it, as JSON values.
        of_chosen: whether these are of the very examples that are chosen.
        column: the field of the training examples whose numbers it goes by, or "".
        embedded: whether embeddings decide it at all.
        chosen_by: under which names a comparison tells what each set of test examples has chosen
            by its share; (): none chooses.
        weighed: whether test examples count by the shares of their sets instead.
        counted: whether it says of how many tasks there are examples, or how many of each, which
            orders of parts of the pool, one after the other, do not keep.
        least: how many examples the pool must have.
    """

    arrange: Callable[[Comparison, int], Arrangement]
    needs: Needs = Needs.NOTHING
    criterion: Criterion | None = None
    shuffles: bool = False
    by_task: bool = False
    facts: Callable[[Comparison], dict[str, Any]] = lambda comparison: {}
    of_chosen: bool = False
    column: str = ""
    embedded: bool = True
    chosen_by: tuple[str, ...] = ()
    weighed: bool = False
    counted: bool = False
    least: int = 0


class Pattern(NamedTuple):
    """Methods that have numbers in their name.

    Attributes:
        name: with letters in place of the numbers.
        usage: what to write, for a name that begins so and is none.
        method: the method of these numbers, each 1 or above; None if they do not go together.
    """

    name: str
    usage: str
    method: Callable[..., Method | None]

    @property
    def prefix(self) -> str:
        """A name that starts so is meant to be one of these."""
        return re.split("-[A-Z]", self.name)[0]

    def match(self, name: str) -> Method | None:
        """The method that `name` stands for; None if it is no name of this pattern."""
        found = re.fullmatch(re.sub("[A-Z]", "([1-9][0-9]{0,8})", self.name), name)
        return self.method(*map(int, found.groups())) if found else None


class ByColumn(NamedTuple):
    """Methods that go by a field of the training examples, as a `Pattern`."""

    name: str
    usage: str
    method: Callable[[str], Method]

    @property
    def prefix(self) -> str:
        """A name that starts so is meant to be one of these."""
        return self.name.partition(":")[0]

    def match(self, name: str) -> Method | None:
        """The method that `name` stands for; None if it is no name of these."""
        found = re.fullmatch(rf"{self.prefix}:([\w.-]+)", name)
        return self.method(found[1]) if found else None
