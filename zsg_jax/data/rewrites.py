"""String-rewriting instances made on the spot: rules from families, vectorized (arXiv 2402.10891).

A rule `x -> y` asks to replace the leftmost x in a string z by y; a string without x stays as it
is (a no-op). A row's prompt is the rule, a line break and z; its answer is the rewritten string.

Families say how the left side x is built from `BASE` random letters, here "abc" as an example:

    repeat-K   each letter K times             repeat-3   aaabbbccc
    period-K   the letters K times over        period-3   abcabcabc
    mirror-K   the letters, then K copies,     mirror-2   abccbaabc
               every other one backwards
    free-K     K random letters, no structure  free-6     qzkvbm

A family may name its letters, from which x, y and z are drawn: repeat-3:abcdef. Without, all 26.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance, Turn
from zsg_jax.runtime.errors import UserError

BASE = 3
REPLACEMENT = 3
CONTEXT = 6
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FAMILY = re.compile(r"(repeat|period|mirror|free)-([1-9][0-9]?)(?::([a-z]+))?")


class Family(NamedTuple):
    """A family's kind, its K, and its letters (A,) uint8."""

    kind: str
    k: int
    letters: np.ndarray


def parse_family(name: str) -> Family:
    """Reads a family's name.

    Raises:
        UserError: for a name that is no family, or letters that are too few or repeated.
    """
    match = _FAMILY.fullmatch(name)
    if match is None:
        raise UserError(
            f"rewrites: {name!r} is no family; families are repeat-K, period-K, mirror-K and "
            "free-K with K from 1 to 99, and may name their letters, as in repeat-3:abcdef"
        )
    letters = np.frombuffer((match[3] or _LETTERS).encode(), np.uint8)
    if len(set(letters.tolist())) < len(letters) or len(letters) < BASE:
        raise UserError(f"rewrites: {name!r} must name at least {BASE} letters, each once")
    return Family(match[1], int(match[2]), letters)


def left_sides(family: Family, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws left sides of rules: (count, X) uint8 letters, X fixed by the family."""
    kind, k, letters = family
    if kind == "free":
        return rng.choice(letters, (count, k))
    # Distinct letters: a base "aa" would make the same string in every family.
    base = rng.permuted(np.tile(letters, (count, 1)), axis=1)[:, :BASE]
    if kind == "repeat":
        return np.repeat(base, k, axis=1)
    if kind == "period":
        return np.tile(base, (1, k))
    copies = [base if part % 2 == 0 else base[:, ::-1] for part in range(k + 1)]
    return np.concatenate(copies, axis=1)


def rewrite_leftmost(z: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replaces the leftmost x in z by y, row by row, without a loop over rows.

    Args:
        z, x, y: (N, Z), (N, X) and (N, Y) uint8 strings, X ≤ Z.

    Returns:
        (N, Z - X + Y) uint8 rewritten strings, meaningful where x was found, and (N,) bool found.
    """
    windows = np.lib.stride_tricks.sliding_window_view(z, x.shape[1], axis=1)
    hits = (windows == x[:, None, :]).all(axis=2)
    start = hits.argmax(axis=1)[:, None]
    column = np.arange(z.shape[1] - x.shape[1] + y.shape[1])[None, :]
    inside = np.clip(column - start, 0, y.shape[1] - 1)
    after = np.clip(column - y.shape[1] + x.shape[1], 0, z.shape[1] - 1)
    before = np.clip(column, 0, z.shape[1] - 1)
    out = np.where(
        column < start,
        np.take_along_axis(z, np.broadcast_to(before, (len(z), column.size)), axis=1),
        np.where(
            column < start + y.shape[1],
            np.take_along_axis(y, inside, axis=1),
            np.take_along_axis(z, np.broadcast_to(after, (len(z), column.size)), axis=1),
        ),
    )
    return out, hits.any(axis=1)


def rewrites(
    families: Sequence[str],
    *,
    rules: int,
    samples: int,
    no_ops: float,
    seed: int,
    split: str,
    unlike: Sequence[Instance] = (),
) -> list[Instance]:
    """Makes `len(families) × rules × samples` instances; a family is a task.

    Args:
        families: names as in the module's table.
        rules: different rules a family, I in the study.
        samples: strings a rule, S in the study.
        no_ops: share of rows whose string does not hold x, from 0 to 1.
        seed: all randomness; the same arguments give the same rows.
        split: "train" or "test"; stands in the ids, and gives each split its own stream.
        unlike: instances whose rules must not come again (the training rows, for a test set).

    Raises:
        UserError: for an unknown or repeated family, a count under 1, a share outside [0, 1], or a
            family with fewer different rules than asked for.
    """
    if len(set(families)) != len(families) or not families:
        raise UserError(f"rewrites: families must be different and at least one, not {families}")
    if rules < 1 or samples < 1:
        raise UserError(f"rewrites: rules={rules} and samples={samples} must be at least 1")
    if not 0 <= no_ops <= 1:
        raise UserError(f"rewrites: no_ops={no_ops} is a share and must lie between 0 and 1")
    taken = {instance.turns[0].content.split(" ", 1)[0] for instance in unlike}
    instances: list[Instance] = []
    for name in families:
        family = parse_family(name)
        stream = [seed, split == "test", *name.encode()]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(stream)))
        x = np.repeat(_unseen_left_sides(name, rules, taken, rng), samples, axis=0)
        y = np.repeat(rng.choice(family.letters, (rules, REPLACEMENT)), samples, axis=0)
        z = _strings(x, rng.random(len(x)) < no_ops, family.letters, rng)
        rewritten, found = rewrite_leftmost(z, x, y)
        for row in rng.permutation(len(x)).tolist():
            left, right, string = (a[row].tobytes().decode() for a in (x, y, z))
            answer = rewritten[row].tobytes().decode() if found[row] else string
            turns = (Turn("user", f"{left} -> {right}\n{string}"), Turn("assistant", answer))
            instances.append(Instance(f"rewrites/{split}/{name}/{row}", name, turns, (answer,)))
    return instances


def _unseen_left_sides(
    name: str, count: int, taken: set[str], rng: np.random.Generator
) -> np.ndarray:
    family = parse_family(name)
    chosen: dict[str, np.ndarray] = {}
    for _ in range(20):
        for left in left_sides(family, 2 * count, rng):
            text = left.tobytes().decode()
            if text not in taken and len(chosen) < count:
                chosen[text] = left
    if len(chosen) < count:
        raise UserError(
            f"rewrites: {name} has only about {len(chosen)} rules that are not used yet, "
            f"{count} were asked for; ask for fewer rules"
        )
    taken.update(chosen)
    return np.stack(list(chosen.values()))


def _strings(
    x: np.ndarray, no_op: np.ndarray, letters: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    count, width = x.shape
    size = CONTEXT + width
    context = rng.choice(letters, (count, size))
    start = rng.integers(0, CONTEXT + 1, (count, 1))
    column = np.arange(size)[None, :]
    place = np.clip(column - start, 0, width - 1)
    holds = (column >= start) & (column < start + width)
    z = np.where(holds & ~no_op[:, None], np.take_along_axis(x, place, axis=1), context)
    # A random string may hold x by chance: draw those rows again until none does.
    while True:
        found = rewrite_leftmost(z, x, x)[1]
        again = np.flatnonzero(no_op & found)
        if not again.size:
            return z
        z[again] = rng.choice(letters, (again.size, size))
