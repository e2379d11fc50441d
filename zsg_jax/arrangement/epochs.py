"""What each epoch does with an order of training examples, by a rule of its own."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.runtime.errors import check, did_you_mean
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.encoders.address import Gradients, read_encoder

ORDERED = "ordered"
# Each gives (n,) of an order (n,), a seed and the number of the epoch, from 1.
RULES: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    ORDERED: lambda order, seed, epoch: order,
    "backward": lambda order, seed, epoch: order[::-1],
    "shuffled": lambda order, seed, epoch: np.random.Generator(
        np.random.PCG64([seed, epoch])
    ).permutation(order),
}
ANEW = "anew@"
_USAGE = (
    "write anew@STEP or anew@STEP+STEP… with ascending steps from 1; then :states, :gradients or "
    "nothing, and ,KEY=VALUE as behind these of an encoder"
)


class Anew(NamedTuple):
    """An epoch in which what is left is arranged anew, as "anew@100+200,pooling=mean" says.

    Attributes:
        steps: after which it is, ascending.
        space: by what of the run, "states" or "gradients".
        settings: what stands behind "states:RUN" then, "" or ",KEY=VALUE,…".
    """

    steps: tuple[int, ...] = ()
    space: str = "states"
    settings: str = ""

    def encoder(self, run: str, step: int) -> str:
        """What embeds examples after a step of a run, as `spaces.open_encoder` takes it."""
        return f"{self.space}:{run}@{step}{self.settings}"


def read_anew(rules: Sequence[str]) -> Anew:
    """What the rules say of arranging anew; no steps where they say nothing.

    Raises:
        UserError: it is not said as it can be understood, or more epochs are asked for.
    """
    told = setting("training.epochs", tuple(rules))
    meant = [name for name in rules if name.startswith(ANEW)]
    if not meant:
        return Anew()
    check(len(rules) == 1, f"{told}: {meant[0]} goes once through the pool; leave the others out")
    number = r"[1-9]\d{0,8}"
    form = rf"{ANEW}({number}(?:\+{number})*)(?::(states|gradients))?(,.*)?"
    found = re.fullmatch(form, meant[0])
    check(found is not None, f"{told}: {_USAGE}")
    assert found is not None
    steps = tuple(map(int, found[1].split("+")))
    check(list(steps) == sorted(set(steps)), f"{told}: {_USAGE}")
    anew = Anew(steps, found[2] or "states", found[3] or "")
    read = read_encoder(anew.encoder("RUN", steps[0]))
    several = isinstance(read, Gradients) and read.steps
    check(not several, f"{told}: a step stands behind the space; {_USAGE}")
    return anew


def check_rules(rules: Sequence[str], steps: int | None) -> None:
    """Refuses rules that are none, and arranging anew when a run of so many steps is over.

    Raises:
        UserError: naming the key.
    """
    told = setting("training.epochs", tuple(rules))
    known = (*RULES, f"{ANEW}STEP")
    check(bool(rules), f"{told} is empty; give a rule for each epoch, of {', '.join(known)}")
    for name in rules:
        check(
            name in RULES or name.startswith(ANEW),
            f"{told}: {name!r} is unknown; choose from {', '.join(known)}"
            + did_you_mean(name, known),
        )
    anew = read_anew(rules)
    check(
        steps is None or max(anew.steps, default=0) < steps,
        f"{told}: ends with step {max(anew.steps, default=0)}, but "
        f"{setting('training.steps', steps)}; give earlier ones",
    )


def epochs(order: np.ndarray, rules: Sequence[str], seed: int) -> np.ndarray:
    """An order as each epoch in turn takes it; one that is arranged anew begins with it.

    Args:
        order: (n,) int64.
        rules: as `check_rules` lets pass, one an epoch.
        seed: of epochs that are shuffled, each by PCG64([seed, its number from 1]).

    Returns:
        (epochs · n,) int64.
    """
    made = [RULES.get(name, RULES[ORDERED]) for name in rules]
    return np.concatenate([rule(order, seed, epoch) for epoch, rule in enumerate(made, start=1)])
