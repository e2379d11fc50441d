"""Strings that hold left sides exactly as often as asked, and what rules make of them; arrays only.

N rows, R rules a row, X, Y, Z letters; strings are uint8 letters with `PAD` after their end.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from zsg_jax.data.rewriting.rules import PAD
from zsg_jax.runtime.errors import UserError

# Letters that are compared at every place; the rest is, where these are alike.
_FIRST = 3


def matches(strings: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where x begins in its string: rows (n,) and places (n,), the first places first.

    Overlapping ones count each.

    Args:
        strings: (N, W) uint8.
        x: (N, X) uint8, one for each string.
    """
    X = x.shape[1]
    P = strings.shape[1] - X + 1
    # Letters of all rows at a place lie side by side, which is compared many at once.
    letters, own = (np.ascontiguousarray(one.T) for one in (strings, x[:, :_FIRST]))
    found = letters[:P] == own[0]
    for i in range(1, len(own)):
        found &= letters[i : i + P] == own[i]
    places, rows = np.nonzero(found)
    if X > _FIRST:
        rest = sliding_window_view(strings, X, axis=1)[rows, places, _FIRST:]
        right = (rest == x[rows, _FIRST:]).all(axis=1)
        rows, places = rows[right], places[right]
    return rows, places


def strings_with(
    x: np.ndarray, times: np.ndarray, length: int, letters: int, rng: np.random.Generator
) -> np.ndarray:
    """Random strings (N, length) in which each left side begins exactly so often.

    Planted at random places that do not overlap, then drawn again where chance made another.

    Args:
        x: (N, R, X) uint8.
        times: (N, R), how often each is held.
        length: Z.
        letters: A.
        rng: all randomness.

    Raises:
        UserError: for more than a string has room for, or what chance hardly ever makes.
    """
    N, R, X = x.shape
    most = int(times.sum(axis=1).max(initial=0))
    if most * X > length:
        raise UserError(
            f"{most} occurrences of {X} letters have no room in a string of {length}; ask for "
            "fewer, or for longer strings"
        )
    strings = np.empty((N, length), np.uint8)
    again = np.arange(N)
    for _ in range(1000):
        strings[again] = _planted(x[again], times[again], length, letters, rng)
        wrong = np.zeros(len(again), bool)
        for r in range(R):
            rows, _ = matches(strings[again], x[again, r])
            wrong |= np.bincount(rows, minlength=len(again)) != times[again, r]
        again = again[wrong]
        if not len(again):
            return strings
    raise UserError(
        f"strings of {length} out of {letters} letters hardly ever hold x as often as asked "
        f"({len(again):,} of {N:,} do not); give longer ones or more letters"
    )


def _planted(
    x: np.ndarray, times: np.ndarray, length: int, letters: int, rng: np.random.Generator
) -> np.ndarray:
    N, R, X = x.shape
    strings = rng.integers(0, letters, (N, length), np.uint8)
    counts = times.sum(axis=1)
    for count in np.unique(counts[counts > 0]):
        rows = np.flatnonzero(counts == count)
        # Letters and left sides lie in a row: which of these places are left sides?
        places = length - count * (X - 1)
        draws = rng.random((len(rows), places), np.float32) if count > 1 else None
        chosen = (
            rng.integers(0, places, (len(rows), 1))
            if draws is None
            else np.sort(np.argsort(draws, axis=1)[:, :count], axis=1)
        )
        starts = chosen + np.arange(count) * (X - 1)
        which = np.zeros(starts.shape, np.int64)
        if R > 1:
            ends = np.cumsum(times[rows], axis=1)
            which = (np.arange(count)[None, :, None] >= ends[:, None, :]).sum(axis=2)
            which = rng.permuted(which, axis=1)
        for i in range(count):
            _put(strings, rows, starts[:, i], x[rows, which[:, i]])
    return strings


def _put(strings: np.ndarray, rows: np.ndarray, starts: np.ndarray, parts: np.ndarray) -> None:
    """Writes parts (n, P) over strings (N, W) from `starts` on."""
    windows = sliding_window_view(strings, parts.shape[1], axis=1, writeable=True)
    windows[rows, starts] = parts


def rewrite(
    strings: np.ndarray, x: np.ndarray, y: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Applies lists of rules as a Markov algorithm does, `limit` times at most.

    Each time the first rule of the list that applies replaces its leftmost x by its y.

    Args:
        strings: (N, Z) uint8.
        x: (N, R, X) uint8, by falling priority.
        y: (N, R, Y) uint8.
        limit: applications at most; 1 is the paper's task.

    Returns:
        Answers (N, W) uint8, W = Z + max(0, limit · (Y - X)), `PAD` after their ends; their lengths
        (N,); which of their letters come from a y, (N, W) bool; and how often a rule was applied,
        (N,).
    """
    N, R, X = x.shape
    Y = y.shape[2]
    width = strings.shape[1] + max(0, limit * (Y - X))
    answers = np.full((N, width), PAD, np.uint8)
    answers[:, : strings.shape[1]] = strings
    replaced = np.zeros((N, width), bool)
    applied = np.zeros(N, np.int64)
    active = np.arange(N)
    for _ in range(limit):
        rule, start = _next(answers[active], x[active])
        active, rule, start = active[rule < R], rule[rule < R], start[rule < R]
        if not len(active):
            break
        applied[active] += 1
        if X == Y:
            _put(answers, active, start, y[active, rule])
            _put(replaced, active, start, np.ones((len(active), Y), bool))
            continue
        # Where each letter comes from: the old string, y behind it, or the pad behind both.
        place, at = np.arange(width), start[:, None]
        after = np.minimum(place + X - Y, width + Y)
        after = np.where(after < width, after, width + Y)
        source = np.where(place < at, place, np.where(place < at + Y, width + place - at, after))
        for array, new, pad in ((answers, y[active, rule], PAD), (replaced, True, False)):
            old = array[active]
            middle = np.broadcast_to(new, (len(active), Y))
            end = np.full((len(active), 1), pad, array.dtype)
            whole = np.concatenate([old, middle, end], axis=1)
            array[active] = np.take_along_axis(whole, source, axis=1)
    return answers, (answers != PAD).sum(axis=1), replaced, applied


def _next(strings: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first rule that applies, (N,), R where none does, and where its x begins, (N,)."""
    N, R = x.shape[:2]
    rule, start = np.full(N, R), np.zeros(N, np.int64)
    for r in range(R):
        open_rows = np.flatnonzero(rule == R)
        rows, places = (one[::-1] for one in matches(strings[open_rows], x[open_rows, r]))
        rule[open_rows[rows]] = r
        # Of several places of a row the first is written last.
        start[open_rows[rows]] = places
    return rule, start
