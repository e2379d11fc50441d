"""String-rewriting instances made on the spot, by rules from families (arXiv 2402.10891).

A rule `x -> y` asks to replace the leftmost x in a string z by y; a string without x stays as it
is (a no-op). A prompt is the rule, a line break and z; its answer is the rewritten string.

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
    """How left sides are built, K, and the letters (A,) uint8."""

    structure: str
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
    structure, k, letters = family
    if structure == "free":
        return rng.choice(letters, (count, k))
    # Distinct letters: a base "aa" would make the same string in every family.
    base = rng.permuted(np.tile(letters, (count, 1)), axis=1)[:, :BASE]
    return structured(structure, base, k + 1 if structure == "mirror" else k)


def structured(structure: str, base: np.ndarray, copies: int) -> np.ndarray:
    """The strings (N, B · copies) that a structure makes of bases, (N, B) letters."""
    if structure == "repeat":
        return np.repeat(base, copies, axis=1)
    backwards = base[:, ::-1] if structure == "mirror" else base
    return np.concatenate([backwards if i % 2 else base for i in range(copies)], axis=1)


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
        no_ops: share of strings that do not hold x, from 0 to 1.
        seed: all randomness; the same arguments give the same instances.
        split: "train" or "test"; stands in the ids, and gives each split its own stream.
        unlike: instances whose rules must not come again (of the training set, for a test set).

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
    used = {instance.turns[0].content.split(" ", 1)[0] for instance in unlike}
    instances: list[Instance] = []
    for name in families:
        letters = parse_family(name).letters
        stream = [seed, split == "test", *name.encode()]
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(stream)))
        lefts = _unused_left_sides(name, rules, used, rng)
        rights = _decode(rng.choice(letters, (rules, REPLACEMENT)))
        pairs = [pair for pair in zip(lefts, rights, strict=True) for _ in range(samples)]
        no_op = rng.random(len(pairs)) < no_ops
        strings = _strings([left for left, _ in pairs], no_op, letters, rng)
        for number in rng.permutation(len(pairs)).tolist():
            (left, right), string = pairs[number], strings[number]
            answer = string.replace(left, right, 1)
            turns = (Turn("user", f"{left} -> {right}\n{string}"), Turn("assistant", answer))
            instances.append(Instance(f"rewrites/{split}/{name}/{number}", name, turns, (answer,)))
    return instances


def _unused_left_sides(
    name: str, count: int, used: set[str], rng: np.random.Generator
) -> list[str]:
    """Left sides that are not in `used`, to which they are added."""
    chosen: dict[str, None] = {}
    for _ in range(20):
        for left in _decode(left_sides(parse_family(name), 2 * count, rng)):
            if left not in used and len(chosen) < count:
                chosen[left] = None
    if len(chosen) < count:
        raise UserError(
            f"rewrites: {name} has only about {len(chosen)} rules that are not used yet, "
            f"{count} were asked for; ask for fewer rules"
        )
    used.update(chosen)
    return list(chosen)


def _strings(
    lefts: list[str], no_op: np.ndarray, letters: np.ndarray, rng: np.random.Generator
) -> list[str]:
    """A string for each left side, which it holds unless `no_op`, (N,) bool, says otherwise."""
    count, width = len(lefts), len(lefts[0])
    strings = _decode(rng.choice(letters, (count, CONTEXT + width)))
    starts = rng.integers(0, CONTEXT + 1, (count, 1))[:, 0].tolist()
    for number in np.flatnonzero(~no_op).tolist():
        string, start = strings[number], starts[number]
        strings[number] = string[:start] + lefts[number] + string[start + width :]
    # A random string may hold its left side by chance: draw those again until none does.
    again = np.flatnonzero(no_op).tolist()
    while again := [number for number in again if lefts[number] in strings[number]]:
        drawn = _decode(rng.choice(letters, (len(again), CONTEXT + width)))
        for number, string in zip(again, drawn, strict=True):
            strings[number] = string
    return strings


def _decode(letters: np.ndarray) -> list[str]:
    """(N, L) uint8 as N strings."""
    return [one.tobytes().decode() for one in letters]
