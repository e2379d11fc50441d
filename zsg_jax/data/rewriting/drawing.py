"""What rows of string rewriting are drawn: instructions to train on, and unseen ones to score.

Unseen instructions are drawn first and those to train on around them, so that drawings of the same
lengths, mix and alphabet are scored on the same rows, whatever they are trained on.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zsg_jax.data.rewriting.rows import Draws, Rewrites
from zsg_jax.data.rewriting.rules import Language, Rules, check_unseen, draw_rules
from zsg_jax.runtime.errors import UserError, check


@dataclass(frozen=True)
class Drawing:
    """Rows to train on.

    Attributes:
        rules: I, instructions trained on.
        samples: S, rows drawn an instruction, a few of which may be alike where few strings are
            possible; 0: as `pool` says.
        pool: the same told as I·S, rows in all; 0: as `samples` says. Where both are 0 every row
            is a fresh one.
        no_ops: share of rows whose instruction does not apply.
        exponent: α of the power law of the instructions' shares; 0: equal shares.
        occurrences: how often a string holds x: a count, or several joined by +.
        families: the mix of rules, as `families.parse_mix` reads it.
        lengths: X/Y/Z, letters of x, y and z.
        list_length: R, rules of an instruction.
        limit: applications at most of a row; 1 is the paper's task.
        encrypted: whether rows are under a letter cipher.
        seed: of the rules and the rows.
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
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in {"rules": 1, "samples": 0, "pool": 0, "exponent": 0, "seed": 0}.items():
            value = getattr(self, name)
            check(value >= least, f"{name}={value} must be at least {least}")
        check(
            not (self.samples and self.pool),
            f"samples={self.samples} and pool={self.pool} both say how many rows there are; set "
            "one of them to 0",
        )

    @property
    def different(self) -> int:
        """How many rows are drawn, once for all; 0: each is a fresh one."""
        return self.pool or self.rules * self.samples

    def language(self, letters: int) -> Language:
        """What decides the shape of its arrays."""
        parts = self.lengths.split("/")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise UserError(f"lengths={self.lengths!r}: give the letters of x, y and z as 3/3/10")
        x, y, z = map(int, parts)
        language = Language(x, y, z, letters, self.list_length, self.limit, self.encrypted)
        language.check()
        return language


@dataclass(frozen=True)
class Scoring:
    """Rows to score, of rules that are not trained on.

    Attributes:
        rows: scored of unseen rules.
        rules: unseen rules.
        families: their mix; "": that of the rules to train on.
        no_ops: share of the rows to which no rule applies.
        occurrences: as `Drawing.occurrences`.
        seed: of these rules and rows.
    """

    rows: int = 500
    rules: int = 500
    families: str = ""
    no_ops: float = 0.0
    occurrences: str = "1"
    seed: int = 0

    @property
    def draws(self) -> Draws:
        """How its rows are drawn."""
        return Draws(self.no_ops, counts(self.occurrences))


class Sides(NamedTuple):
    """The instructions of both sides, in one language; no x and no y of `unseen` is in `train`."""

    language: Language
    train: Rules
    unseen: Rules


def draw_sides(drawing: Drawing, scoring: Scoring, letters: int) -> Sides:
    """Draws the instructions of both sides out of an alphabet of so many letters.

    Raises:
        UserError: for what cannot be drawn.
    """
    language = drawing.language(letters)
    mix = scoring.families or drawing.families
    unseen = draw_rules(language, mix, scoring.rules, generator(scoring.seed, 0))
    train = draw_rules(
        language, drawing.families, drawing.rules, generator(drawing.seed, 1), unlike=unseen
    )
    check_unseen(train, unseen)
    return Sides(language, train, unseen)


def unseen_rows(sides: Sides, scoring: Scoring) -> Rewrites:
    """The rows to score, `scoring.rows`; raises UserError where strings have no room."""
    seed = (scoring.seed, 2)
    return Rewrites(sides.language, sides.unseen, scoring.draws, rows=scoring.rows, seed=seed)


def train_rows(sides: Sides, drawing: Drawing, rows: int) -> Rewrites:
    """So many rows to train on; raises as `unseen_rows`."""
    draws = Draws(drawing.no_ops, counts(drawing.occurrences), drawing.exponent or None)
    return Rewrites(sides.language, sides.train, draws, rows=rows, seed=(drawing.seed, 4))


def counts(text: str) -> tuple[int, ...]:
    """ "1+5+10" as (1, 5, 10).

    Raises:
        UserError: for what is no list of counts.
    """
    parts = text.split("+")
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"occurrences={text!r}: give a count, or several as 1+2+3")
    return tuple(map(int, parts))


def generator(*seed: int) -> np.random.Generator:
    """Random numbers that hang on these numbers alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
