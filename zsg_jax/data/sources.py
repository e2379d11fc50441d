"""From what the config names to instances: a file, or rewrites made on the spot."""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.instance import Instance
from zsg_jax.data.messages import BadRow, read_messages
from zsg_jax.data.rewrites import rewrites

REWRITES = "rewrites"


def load(
    train: str, test: str, *, bad_rows: str, rewrites_options: Mapping[str, Any]
) -> tuple[list[Instance], list[Instance], list[BadRow]]:
    """Loads both sides of a study.

    Args:
        train, test: a `messages` JSONL path (.gz too), or "rewrites".
        bad_rows: "refuse" or "skip".
        rewrites_options: train_families, test_families, rules, samples, test_rules, test_samples,
            no_ops and seed; read only where a side is "rewrites".

    Returns:
        Training instances, test instances, and the rows that were skipped.
    """
    options = rewrites_options
    skipped: list[BadRow] = []
    if train == REWRITES:
        train_set = rewrites(
            options["train_families"],
            rules=options["rules"],
            samples=options["samples"],
            no_ops=options["no_ops"],
            seed=options["seed"],
            split="train",
        )
    else:
        train_set, bad = read_messages(train, bad_rows)
        skipped += bad
    if test == REWRITES:
        test_set = rewrites(
            options["test_families"],
            rules=options["test_rules"],
            samples=options["test_samples"],
            no_ops=options["no_ops"],
            seed=options["seed"],
            split="test",
            unlike=train_set if train == REWRITES else (),
        )
    else:
        test_set, bad = read_messages(test, bad_rows)
        skipped += bad
    return train_set, test_set, skipped
