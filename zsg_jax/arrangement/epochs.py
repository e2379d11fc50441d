"""What each epoch does with an order of training examples, by a rule of its own."""

from collections.abc import Callable, Sequence

import numpy as np

from zsg_jax.runtime.errors import check, did_you_mean
from zsg_jax.runtime.settings import setting

ORDERED = "ordered"
# Each gives (n,) of an order (n,), a seed and the number of the epoch, from 1.
RULES: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    ORDERED: lambda order, seed, epoch: order,
    "backward": lambda order, seed, epoch: order[::-1],
    "shuffled": lambda order, seed, epoch: np.random.Generator(
        np.random.PCG64([seed, epoch])
    ).permutation(order),
}


def check_rules(rules: Sequence[str]) -> None:
    """Refuses rules that are none.

    Raises:
        UserError: naming the key.
    """
    told = setting("training.epochs", tuple(rules))
    check(bool(rules), f"{told} is empty; give a rule for each epoch, of {', '.join(RULES)}")
    for name in rules:
        check(
            name in RULES,
            f"{told}: {name!r} is unknown; choose from {', '.join(RULES)}"
            + did_you_mean(name, RULES),
        )


def epochs(order: np.ndarray, rules: Sequence[str], seed: int) -> np.ndarray:
    """An order as each epoch in turn takes it.

    Args:
        order: (n,) int64.
        rules: names of `RULES`, one an epoch.
        seed: of epochs that are shuffled, each by PCG64([seed, its number from 1]).

    Returns:
        (epochs · n,) int64.
    """
    return np.concatenate(
        [RULES[name](order, seed, epoch) for epoch, name in enumerate(rules, start=1)]
    )
