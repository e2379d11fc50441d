"""Test-centric Multi-turn Arrangement (arXiv 2406.11721) without its N × T matrix."""

from collections.abc import Iterator

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.shares import Shares
from zsg_jax.runtime.errors import check
from zsg_jax.similarity.embeddings import Embeddings, check_pair
from zsg_jax.similarity.search.cosine import top_k
from zsg_jax.similarity.search.options import Search

FULL_SORT_ROWS = 4096  # up to here every test example's list holds all training examples
LIST_ENTRIES = 1 << 25  # of all lists together: 1 GB on the host, or 400 MB on each device


def tmta(
    train: Embeddings,
    test: Embeddings,
    *,
    budget: int | None = None,
    farthest: bool = False,
    k: int | None = None,
    first: np.ndarray | None = None,
    shares: Shares | None = None,
    search: Search = Search(),
) -> Arrangement:
    """Arranges training examples by turns: in each, every test example names its nearest one left.

    Algorithm 1 of arXiv 2406.11721: in a turn every test example names the remaining training
    example of highest cosine, ties to the lower index; the union of the named ones is the turn's
    subset, by ascending index; only then are they removed. Turns go on until none remains or at
    least `budget` are chosen; the last turn is kept whole.

    Euclidean distance at length one rises as the cosine falls, so the turns are its turns too.

    Args:
        train: (N, D) floats of any length; an all-zero embedding has cosine 0 with everything.
        test: (T, D) floats.
        budget: examples wanted, at least; None takes all N.
        farthest: name the remaining example of lowest cosine instead ("max" in the paper).
        k: length of the first lists; None picks it from budget, N and T. Affects the time only.
        first: (T, k) int64, the first lists where a pass has made them already, as `top_k` gives
            them for these embeddings.
        shares: the sets that test examples stand in, told of what they choose; a turn is then one
            of the set whose turn it is, in which its test examples alone name. None: all are one.
        search: devices, block size and progress, of the passes that make lists.

    Returns:
        The chosen examples by turn; fewer than wanted where every set has its budget.

    Raises:
        UserError: a NaN or an infinity, wrong ranks or dtypes, unequal D, an empty test set, a
            negative budget.
    """
    train, test = check_pair(train, test)
    check(len(test) > 0, "TMTA: the test set is empty, so no row can be named")
    check(budget is None or budget >= 0, f"TMTA: budget={budget}; it must not be negative")
    check(k is None or k >= 1, f"TMTA: k={k}; it must be at least 1")
    wanted = len(train) if budget is None else min(budget, len(train))
    length = first_length(len(train), len(test), budget) if k is None else k
    if first is None:
        first = np.empty((len(test), 0), np.int64)
    shares = Shares.of_one(len(test)) if shares is None else shares
    turns = _turns(train, test, first, length, k is not None, farthest, shares, search)
    subsets: list[np.ndarray] = []
    chosen = 0
    while chosen < wanted and (subset := next(turns, None)) is not None:
        subsets.append(subset)
        chosen += len(subset)
    sizes = [len(subset) for subset in subsets]
    return Arrangement(
        order=np.concatenate([np.empty(0, np.int64), *subsets]),
        turn=np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes),
    )


def _turns(
    train: Embeddings,
    test: Embeddings,
    lists: np.ndarray,
    length: int,
    given: bool,
    farthest: bool,
    shares: Shares,
    search: Search,
) -> Iterator[np.ndarray]:
    """Each turn's subset, for as long as examples remain.

    The matrix is never held. A test example's nearest of the remaining examples are listed once,
    best first. Examples only ever leave the pool, so the first of the list that is still in the
    pool is the nearest of all that remain: those outside the list were no nearer (and of higher
    index when as near) than any in it. When some list has no such example any more, all lists are
    made anew from those that remain. This is the same arrangement for every length, block size and
    number of devices, because a cosine has the same bits under all of them.
    """
    removed = np.zeros(len(train), bool)
    position = np.zeros(len(test), np.int64)
    left, longest = len(train), longest_list(len(test))
    while left and (turn_of := shares.next()) is not None:
        members = shares.members[turn_of]
        if not _advance(lists, position, removed, members):
            if not given and left <= longest:
                length = longest  # no further pass, and a sort costs less than keeping lists
            excluded = removed if left < len(train) else None
            lists = top_k(
                train,
                test,
                min(length, left),
                farthest=farthest,
                excluded=excluded,
                search=search,
            )[1]
            position[:] = 0
            # Lists that ran dry overlap more than was guessed.
            length = max(length, min(2 * length, longest))
        subset = np.unique(lists[members, position[members]])
        shares.chosen[turn_of] += subset.tolist()
        removed[subset] = True
        left -= len(subset)
        yield subset


def _advance(
    lists: np.ndarray, position: np.ndarray, removed: np.ndarray, walking: np.ndarray
) -> bool:
    """Moves the positions of `walking` to the first index of their list that is not removed.

    False when a list has none.
    """
    while len(walking):
        if position[walking].max() >= lists.shape[1]:
            return False
        walking = walking[removed[lists[walking, position[walking]]]]
        position[walking] += 1
    return True


def first_length(train: int, test: int, budget: int | None) -> int:
    """How long the first lists of `tmta` are for so many examples, unless given."""
    wanted = train if budget is None else min(budget, train)
    longest = longest_list(test)
    if train <= min(FULL_SORT_ROWS, longest):
        return max(train, 1)
    # A list of 16 times its fair share lasts, unless test examples are much alike. A longer one
    # than 1024 is made only when it is needed, from the fewer that then remain.
    length = max(256, min(1024, 16 * -(-wanted // test)))
    return max(1, min(train, longest, 1 << (length - 1).bit_length()))


def longest_list(test: int) -> int:
    """How long the lists of so many test examples may be."""
    return max(64, LIST_ENTRIES // test)
