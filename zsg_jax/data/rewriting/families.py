"""Families of left sides x: how a string of X letters is built, and how many of them there are.

Every family repeats a base of X / k letters k times over (arXiv 2402.10891, semantic rules):

    free        X random letters, no structure; has no k
    repeat:3    each letter of the base k times       aaabbbccc
    period:2    the base k times over                 abcabc
    mirror:3    the same, every other one backwards   abccbaabc

`repeat:3-6` is every k from 3 to 6 that divides X, and `+` joins families to a mix. The letters of
a base differ, for "aa" in a base would make a rule of another k; a base longer than the alphabet
has each of its neighbours different.
"""

import re
from functools import partial
from typing import NamedTuple

import numpy as np

from zsg_jax.data.rewrites import structured
from zsg_jax.runtime.errors import UserError, check

FREE = "free"
STRUCTURES = ("repeat", "period", "mirror")
_FAMILY = re.compile(rf"({'|'.join(STRUCTURES)}):(\d+)(?:-(\d+))?")
# Kinds of so few strings are listed whole: so no draw is made twice, and none is missed.
LISTED = 1 << 16


class Kind(NamedTuple):
    """A family with its k; 0 for "free"."""

    family: str
    k: int

    def __str__(self) -> str:
        return f"{self.family}:{self.k}" if self.k else self.family


def parse_mix(mix: str, length: int) -> tuple[tuple[Kind, ...], ...]:
    """The kinds of every family of a mix such as "free" or "repeat:3-6+mirror:3-6".

    Args:
        mix: families joined by +.
        length: X, letters of a left side; a k that does not divide it makes no rule.

    Raises:
        UserError: for what is no family, one named twice, or one without a k that divides X.
    """
    families = []
    for name in mix.split("+"):
        match = _FAMILY.fullmatch(name)
        if name != FREE and match is None:
            raise UserError(
                f"{mix!r}: {name!r} is no family of rules; give free, or repeat, period or mirror "
                "with a k or a range of them, as repeat:3-6, joined by +"
            )
        kinds = [Kind(FREE, 0)]
        if match is not None:
            first, last = int(match[2]), int(match[3] or match[2])
            ks = [k for k in range(max(first, 1), last + 1) if length % k == 0]
            kinds = [Kind(match[1], k) for k in ks]
        check(
            bool(kinds),
            f"{mix!r}: no k of {name!r} divides the {length} letters of x; give one of "
            f"{', '.join(str(k) for k in range(1, length + 1) if length % k == 0)}",
        )
        families.append(tuple(kinds))
    names = [kinds[0].family for kinds in families]
    check(len(set(names)) == len(names), f"{mix!r}: names a family twice; give it one range")
    return tuple(families)


def build(kind: Kind, base: np.ndarray) -> np.ndarray:
    """The left sides (N, B · k) of bases, (N, B) letters."""
    return base if kind.family == FREE else structured(kind.family, base, kind.k)


def draw(
    kind: Kind, length: int, letters: int, count: int, used: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """At most `count` different left sides that are not in `used`, (n, length) uint8.

    There are fewer where the kind has no more.

    Args:
        kind: what they are built as.
        length: X, a multiple of k.
        letters: A; letters are 0 to A - 1.
        count: how many are wanted.
        used: left sides that are taken, as `keys` gives them.
        rng: all randomness.
    """
    size = length // (kind.k or 1)
    differ = kind.family != FREE and size <= letters
    if letters**size <= LISTED:
        base = np.indices((letters,) * size).reshape(size, -1).T.astype(np.uint8)
        strings = build(kind, base[_fits(kind, base, differ)])
        strings = strings[~np.isin(keys(strings), used)]
        return strings[rng.permutation(len(strings))[:count]]
    make = partial(_bases, kind, size, letters, differ=differ, rng=rng)
    found = np.empty((0, length), np.uint8)
    # A kind that is nearly used up gives a few more in every round, and at last no more.
    for _ in range(50):
        if len(found) == count:
            break
        drawn = build(kind, make(count - len(found) + 16))
        both = np.concatenate([found, drawn])
        _, first = np.unique(keys(both), return_index=True)
        new = np.sort(first[first >= len(found)])
        new = new[~np.isin(keys(both[new]), used)]
        found = np.concatenate([found, both[new]])[:count]
    return found


def keys(strings: np.ndarray) -> np.ndarray:
    """(…, L) uint8 letters as (N,) byte strings, which can be compared, sorted and looked up."""
    # A byte string drops zeros at its end: no letter may be one.
    flat = np.ascontiguousarray(strings.reshape(-1, strings.shape[-1]) + np.uint8(1))
    return flat.view(f"S{strings.shape[-1]}").ravel()


def _fits(kind: Kind, base: np.ndarray, differ: bool) -> np.ndarray:
    """Which bases the kind may have, (N,) bool."""
    if kind.family == FREE:
        return np.ones(len(base), bool)
    order = np.sort(base, axis=1) if differ else base
    return (order[:, 1:] != order[:, :-1]).all(axis=1)


def _bases(
    kind: Kind, size: int, letters: int, count: int, *, differ: bool, rng: np.random.Generator
) -> np.ndarray:
    """(count, size) letters of bases."""
    if differ:
        rows = np.tile(np.arange(letters, dtype=np.uint8), (count, 1))
        return rng.permuted(rows, axis=1)[:, :size]
    base = rng.integers(0, letters, (count, size), np.uint8)
    if kind.family != FREE:
        # Each letter is told by its distance from the one before, which is never 0.
        base[:, 1:] = rng.integers(1, letters, (count, size - 1), np.uint8)
        base = (np.cumsum(base, axis=1, dtype=np.int64) % letters).astype(np.uint8)
    return base
