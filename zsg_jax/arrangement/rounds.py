"""Round robin over the test examples, the rule of RDS+ (arXiv 2503.01807), without a matrix."""

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.shares import Shares
from zsg_jax.arrangement.turns import first_length, longest_list
from zsg_jax.runtime.errors import check
from zsg_jax.similarity.embeddings import Embeddings, check_pair
from zsg_jax.similarity.search.cosine import top_k
from zsg_jax.similarity.search.options import Search


def round_robin(
    train: Embeddings,
    test: Embeddings,
    *,
    budget: int | None = None,
    first: np.ndarray | None = None,
    shares: Shares | None = None,
    search: Search = Search(),
) -> Arrangement:
    """Every test example in turn takes its nearest training example that is left for itself.

    Where TMTA's turn is a union, which is small where test examples are alike, a round here gives
    each of them one of its own; so none of two that want the same goes without. The nearest is that
    of highest cosine, ties to the lower index.

    Args:
        train: (N, D) floats of any length; an all-zero embedding has cosine 0 with everything.
        test: (T, D) floats; the first of them chooses first.
        budget: examples wanted, which is how many come; None takes all N.
        first: (T, k) int64, the first lists where a pass has made them already, as `top_k` gives
            them for these embeddings.
        shares: the sets that test examples stand in, told of what they choose. One example of the
            set whose turn it is chooses, the next of that set when its turn comes again. None: all
            are one set.
        search: devices, block size and progress, of the passes that make lists.

    Returns:
        The examples in the order in which they were taken; a turn is a round of the set. They are
        fewer than wanted where every set has its budget.

    Raises:
        UserError: a NaN or an infinity, wrong ranks or dtypes, unequal D, an empty test set.
    """
    train, test = check_pair(train, test)
    check(len(test) > 0, "round robin: the test set is empty, so no row can be named")
    wanted = len(train) if budget is None else min(budget, len(train))
    length, longest = first_length(len(train), len(test), budget), longest_list(len(test))
    lists = np.empty((len(test), 0), np.int64) if first is None else first
    position = np.zeros(len(test), np.int64)
    removed = np.zeros(len(train), bool)
    shares = Shares.of_one(len(test)) if shares is None else shares
    order, turn = list[int](), list[int]()
    while len(order) < wanted and (turn_of := shares.next()) is not None:
        members, chosen = shares.members[turn_of], shares.chosen[turn_of]
        past, place = divmod(len(chosen), len(members))
        one = int(members[place])
        if not _advance(lists[one], position, one, removed):
            # Those outside a list were no nearer than any in it, so lists are needed anew only now.
            lists = top_k(
                train,
                test,
                min(length, len(train) - len(order)),
                excluded=removed if order else None,
                search=search,
            )[1]
            position[:] = 0
            length = max(length, min(2 * length, longest))
        taken = int(lists[one, position[one]])
        removed[taken] = True
        chosen.append(taken)
        order.append(taken)
        turn.append(1 + past)
    return Arrangement(np.array(order, np.int64), np.array(turn, np.int32))


def _advance(row: np.ndarray, position: np.ndarray, one: int, removed: np.ndarray) -> bool:
    """Moves the position of `one` to the first of its list not removed; False if there is none."""
    at = int(position[one])
    while at < len(row) and removed[row[at]]:
        at += 1
    position[one] = at
    return at < len(row)
