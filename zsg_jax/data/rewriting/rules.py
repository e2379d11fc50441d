"""Instructions, each a list of rules x → y: drawn so that no x and no y of a test comes again."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zsg_jax.data.rewriting.families import Kind, draw, keys, parse_mix
from zsg_jax.runtime.errors import UserError, check

# Letters as characters, of which an alphabet of A has the first A.
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# What a string has after its end.
PAD = 255


class Language(NamedTuple):
    """What all rows of a study share, and so the shape of its arrays.

    Attributes:
        x, y, z: letters of a left side, a right side and a string.
        letters: of the alphabet, A.
        rules: of an instruction, R, by falling priority.
        limit: applications at most of a row; 1 is the paper's task.
        encrypted: whether each row has a letter cipher of its own (arXiv 2405.19787).
    """

    x: int = 3
    y: int = 3
    z: int = 10
    letters: int = 26
    rules: int = 1
    limit: int = 1
    encrypted: bool = False

    @property
    def answer(self) -> int:
        """Letters at most of an answer, W."""
        return self.z + max(0, self.limit * (self.y - self.x))

    def check(self) -> None:
        """Raises `UserError` for a language in which nothing can be said."""
        least = {"x": 1, "y": 1, "z": self.x, "letters": 2, "rules": 1, "limit": 1}
        for name, low in least.items():
            value = getattr(self, name)
            check(value >= low, f"{name}={value} of a language must be at least {low}")
        check(
            self.letters <= len(LETTERS),
            f"letters={self.letters} of a language: there are {len(LETTERS)}",
        )


@dataclass(frozen=True)
class Rules:
    """I instructions of R rules each.

    Attributes:
        x: (I, R, X) uint8 letters, all different.
        y: (I, R, Y) uint8 letters, none that of its x.
        kinds: the kinds of left sides there are.
        kind: (I,) of `kinds`: all rules of an instruction have one.
    """

    x: np.ndarray
    y: np.ndarray
    kinds: tuple[Kind, ...]
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.x)


def draw_rules(
    language: Language,
    mix: str,
    count: int,
    rng: np.random.Generator,
    unlike: Rules | None = None,
) -> Rules:
    """Draws `count` instructions, as many of each family of the mix, and of each k in a family.

    A kind that has fewer leaves the rest to the others. Kinds lie mixed evenly: the first n
    instructions have about the same shares.

    Args:
        language: lengths and alphabet.
        mix: families, as `families.parse_mix` reads them.
        count: I.
        rng: all randomness.
        unlike: rules whose x and y may not come again.

    Raises:
        UserError: for a mix that is none, or that has fewer rules.
    """
    language.check()
    check(count >= 1, f"{count} instructions: give at least 1")
    families = parse_mix(mix, language.x)
    kinds = tuple(kind for family in families for kind in family)
    used = np.empty(0, "S1") if unlike is None else keys(unlike.x)
    weights = np.concatenate([np.full(len(f), 1 / len(families) / len(f)) for f in families])
    lefts = _left_sides(language, kinds, weights, count, used, rng)
    got = np.array([len(strings) for strings in lefts])
    if got.sum() < count:
        raise UserError(
            f"{mix!r} has only {got.sum():,} instructions of {language.rules} rules with x of "
            f"{language.x} letters that no test has, {count:,} were asked for; ask for fewer"
        )
    # Evenly: the i-th of n of a kind stands at (i + 1/2) / n.
    place = np.concatenate([(np.arange(n) + 0.5) / n for n in got if n])
    order = np.argsort(place, kind="stable")
    x = np.concatenate(lefts)[order]
    kind = np.repeat(np.arange(len(kinds)), got)[order]
    return Rules(x, _right_sides(language, x, unlike, rng), kinds, kind)


def check_unseen(train: Rules, test: Rules) -> None:
    """Makes sure that no x and no y of a test was trained on."""
    for name in ("x", "y"):
        both = np.isin(keys(getattr(test, name)), keys(getattr(train, name)))
        if both.any():
            raise RuntimeError(f"{both.sum()} {name} of test rules are among the training rules")


def _left_sides(
    language: Language,
    kinds: tuple[Kind, ...],
    weights: np.ndarray,
    count: int,
    used: np.ndarray,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Of every kind (n, R, X), `count` in all if there are so many."""
    R, X = language.rules, language.x
    found = [np.empty((0, R, X), np.uint8) for _ in kinds]
    alive = np.ones(len(kinds), bool)
    while (missing := count - sum(map(len, found))) > 0 and alive.any():
        # Whole numbers that sum up to what is missing, each next to its share.
        share = np.cumsum(weights * alive) / (weights * alive).sum() * missing
        wanted = np.diff(np.round(share).astype(int), prepend=0)
        for i in np.flatnonzero(wanted):
            strings = draw(kinds[i], X, language.letters, wanted[i] * R, used, rng)
            alive[i] = len(strings) == wanted[i] * R
            whole = strings[: len(strings) // R * R]
            used = np.concatenate([used, keys(whole)])
            found[i] = np.concatenate([found[i], whole.reshape(-1, R, X)])
    return found


def _right_sides(
    language: Language, x: np.ndarray, unlike: Rules | None, rng: np.random.Generator
) -> np.ndarray:
    """(I, R, Y) random letters: none that of its x, none of `unlike`."""
    flat = x.reshape(-1, language.x)
    y = np.empty((len(flat), language.y), np.uint8)
    again = np.arange(len(flat))
    seen = np.empty(0, "S1") if unlike is None else keys(unlike.y)
    for _ in range(200):
        if not len(again):
            return y.reshape(*x.shape[:2], language.y)
        y[again] = rng.integers(0, language.letters, (len(again), language.y), np.uint8)
        wrong = np.isin(keys(y[again]), seen)
        if language.x == language.y:
            wrong |= (y[again] == flat[again]).all(axis=1)
        again = again[wrong]
    raise UserError(
        f"right sides of {language.y} letters out of {language.letters} hardly leave one that no "
        "test has; give longer ones, or fewer test rules"
    )
