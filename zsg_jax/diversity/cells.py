"""The cells of a grid: what is drawn for each, and what each is scored on."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.data.rewriting.drawing import (
    Drawing,
    Scoring,
    draw_sides,
    generator,
    train_rows,
    unseen_rows,
)
from zsg_jax.data.rewriting.forms import Encoded, Writer, joined
from zsg_jax.data.rewriting.rows import CHUNK, Rewrites
from zsg_jax.runtime.errors import check


@dataclass(frozen=True)
class Cell(Drawing):
    """One model of the grid; a field is an axis.

    Rows to train on are met again epoch after epoch, unless every one is fresh.

    Attributes:
        learning_rate: at its peak.
        seed: of the weights too.
    """

    learning_rate: float = 4e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.learning_rate > 0, f"learning_rate={self.learning_rate} must be above 0")

    @property
    def name(self) -> str:
        """Of its folder: the axes that are not at their default, I and the seed always."""
        parts = [f"rules{self.rules}"]
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name not in ("rules", "seed") and value != one.default:
                plain = str(value).replace("/", "-").replace(":", "").replace("+", "_")
                parts.append(f"{one.name}-{plain}")
        return ",".join([*parts, f"seed{self.seed}"])


AXES = (*(one.name for one in fields(Cell) if one.name != "seed"), "seed")


def grid(axes: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Every cell of a grid: the product of its axes, the last one fastest.

    Raises:
        UserError: an axis is empty, or names a value twice.
    """
    for name, values in axes.items():
        check(len(values) > 0, f"grid.{name} is empty; give at least one value")
        check(len(set(values)) == len(values), f"grid.{name}={tuple(values)} names a value twice")
    return [
        Cell(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())
    ]


class Scored(NamedTuple):
    """Rows to score as tokens, which of them a rule applies to, and the kinds of their rules."""

    encoded: Encoded
    applied: np.ndarray
    kinds: np.ndarray


class CellData:
    """The rows of a cell: those to score, and those of every step.

    Attributes:
        writer: of its tokens.
        unseen, seen: rows to score, of rules that are not and that are trained on.
    """

    def __init__(
        self, cell: Cell, scoring: Scoring, *, letters: int, form: str, steps: int, batch_size: int
    ) -> None:
        """Draws the rules.

        Raises:
            UserError: the cell asks for what cannot be drawn.
        """
        sides = draw_sides(cell, scoring, letters)
        self.language, train = sides.language, sides.train
        self.writer = Writer(form, self.language)
        self._batch_size, self._seed = batch_size, cell.seed
        few = np.linspace(0, len(train) - 1, min(len(train), scoring.rows)).astype(np.int64)
        some = replace(train, x=train.x[few], y=train.y[few], kind=train.kind[few])
        seed = (cell.seed, 3)
        self.unseen = self._scored(unseen_rows(sides, scoring))
        self.seen = self._scored(
            Rewrites(self.language, some, scoring.draws, rows=scoring.rows, seed=seed)
        )
        total = steps * batch_size
        self._pool = min(cell.different or total, total)
        self._stream = train_rows(sides, cell, self._pool)
        self._once = self._pool == total
        self._cached: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def steps(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of `count` steps from `first` on: (T, B, L) uint8 tokens, (T, B) int32 lengths.

        Rows come in their order; from the second epoch on, in a new one for each.
        """
        B = self._batch_size
        at = np.arange(first * B, (first + count) * B)
        epoch, place = at // self._pool, at % self._pool
        for one in np.unique(epoch[epoch > 0]):
            order = generator(self._seed, 5, int(one)).permutation(self._pool)
            place[epoch == one] = order[place[epoch == one]]
        numbers = np.unique(place // CHUNK)
        if self._once:
            # What has been met is not met again.
            self._cached = {n: one for n, one in self._cached.items() if n >= numbers[0]}
        tokens = np.empty((len(at), self.writer.length), np.uint8)
        lengths = np.empty(len(at), np.int32)
        for number in numbers:
            if number not in self._cached:
                self._cached[number] = self.writer.tokens(self._stream.chunk(int(number)))
            rows = np.flatnonzero(place // CHUNK == number)
            some, counted = self._cached[number]
            tokens[rows] = some[place[rows] % CHUNK]
            lengths[rows] = counted[place[rows] % CHUNK]
        return tokens.reshape(count, B, -1), lengths.reshape(count, B)

    def _scored(self, stream: Rewrites) -> Scored:
        chunks, rules = list(stream), stream.rules
        encoded = joined([self.writer.encode(rows) for rows in chunks])
        instruction = np.concatenate([rows.instruction for rows in chunks])
        names = np.array([str(kind) for kind in rules.kinds])
        applied = np.concatenate([rows.applied for rows in chunks]) > 0
        return Scored(encoded, applied, names[rules.kind[instruction]])


def chain(digest: str, tokens: np.ndarray) -> str:
    """The SHA-256 of all tokens so far: of the digest before, and of those that came since."""
    return hashlib.sha256(digest.encode() + tokens.tobytes()).hexdigest()
