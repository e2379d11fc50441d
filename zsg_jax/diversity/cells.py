"""The cells of a grid: what is drawn for each, and what each is scored on."""

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.diversity.forms import Encoded, Writer, joined
from zsg_jax.diversity.rewrites import CHUNK, Draws, Rewrites
from zsg_jax.diversity.rules import Language, Rules, check_unseen, draw_rules
from zsg_jax.runtime.errors import UserError, check


@dataclass(frozen=True)
class Cell:
    """One model of the grid; a field is an axis.

    Attributes:
        rules: I, instructions trained on.
        samples: S, different rows an instruction, met again epoch after epoch; 0: every row of the
            run is a fresh one.
        pool: the same told as I·S; 0: as `samples` says.
        no_ops: share of training rows whose instruction does not apply.
        exponent: α of the power law of the instructions' shares; 0: equal shares.
        occurrences: how often a string holds x: a count, or several joined by +.
        families: the mix of rules, as `families.parse_mix` reads it.
        lengths: X/Y/Z, letters of x, y and z.
        list_length: R, rules of an instruction.
        limit: applications at most of a row; 1 is the paper's task.
        encrypted: whether rows are under a letter cipher.
        learning_rate: at its peak.
        seed: of the weights, the rules and the rows.
    """

    rules: int = 1024
    samples: int = 0
    pool: int = 0
    no_ops: float = 0.0
    exponent: float = 0.0
    occurrences: str = "1"
    families: str = "free"
    lengths: str = "3/3/10"
    list_length: int = 1
    limit: int = 1
    encrypted: bool = False
    learning_rate: float = 4e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"rules": 1, "samples": 0, "pool": 0, "exponent": 0, "seed": 0}.items():
            value = getattr(self, name)
            check(value >= least, f"{name}={value} of a cell must be at least {least}")
        check(
            not (self.samples and self.pool),
            f"samples={self.samples} and pool={self.pool} of a cell both say how many rows there "
            "are; set one of them to 0",
        )
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

    @property
    def draws(self) -> Draws:
        """How its training rows are drawn."""
        return Draws(self.no_ops, counts(self.occurrences), self.exponent or None)

    def language(self, letters: int) -> Language:
        """What decides the shape of its arrays."""
        parts = self.lengths.split("/")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise UserError(f"lengths={self.lengths!r}: give the letters of x, y and z as 3/3/10")
        x, y, z = map(int, parts)
        language = Language(x, y, z, letters, self.list_length, self.limit, self.encrypted)
        language.check()
        return language


AXES = tuple(one.name for one in fields(Cell))


def counts(text: str) -> tuple[int, ...]:
    """ "1+5+10" as (1, 5, 10).

    Raises:
        UserError: for what is no list of counts.
    """
    parts = text.split("+")
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"occurrences={text!r}: give a count, or several as 1+2+3")
    return tuple(map(int, parts))


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


@dataclass(frozen=True)
class Scoring:
    """What every cell is scored on; the unseen rules and rows are the same for cells of a language.

    Attributes:
        rows: scored of unseen rules, and as many of trained ones.
        rules: unseen rules.
        families: their mix; "": the cell's own.
        no_ops: share of the rows to which no rule applies.
        occurrences: as `Cell.occurrences`.
        seed: of these rules and rows.
    """

    rows: int = 500
    rules: int = 500
    families: str = ""
    no_ops: float = 0.0
    occurrences: str = "1"
    seed: int = 0


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
        self.language = cell.language(letters)
        self.writer = Writer(form, self.language)
        self._batch_size, self._seed = batch_size, cell.seed
        mix = scoring.families or cell.families
        test = draw_rules(self.language, mix, scoring.rules, _random(scoring.seed, 0))
        train = draw_rules(
            self.language, cell.families, cell.rules, _random(cell.seed, 1), unlike=test
        )
        check_unseen(train, test)
        few = np.linspace(0, len(train) - 1, min(len(train), scoring.rows)).astype(np.int64)
        some = replace(train, x=train.x[few], y=train.y[few], kind=train.kind[few])
        self.unseen = self._scored(test, scoring, (scoring.seed, 2))
        self.seen = self._scored(some, scoring, (cell.seed, 3))
        total = steps * batch_size
        self._pool = min(cell.pool or cell.rules * cell.samples or total, total)
        self._stream = Rewrites(
            self.language, train, cell.draws, rows=self._pool, seed=(cell.seed, 4)
        )
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
            order = _random(self._seed, 5, int(one)).permutation(self._pool)
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

    def _scored(self, rules: Rules, scoring: Scoring, seed: tuple[int, ...]) -> Scored:
        draws = Draws(scoring.no_ops, counts(scoring.occurrences))
        chunks = list(Rewrites(self.language, rules, draws, rows=scoring.rows, seed=seed))
        encoded = joined([self.writer.encode(rows) for rows in chunks])
        instruction = np.concatenate([rows.instruction for rows in chunks])
        names = np.array([str(kind) for kind in rules.kinds])
        applied = np.concatenate([rows.applied for rows in chunks]) > 0
        return Scored(encoded, applied, names[rules.kind[instruction]])


def chain(digest: str, tokens: np.ndarray) -> str:
    """The SHA-256 of all tokens so far: of the digest before, and of those that came since."""
    return hashlib.sha256(digest.encode() + tokens.tobytes()).hexdigest()


def _random(*seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
