"""From what the config names to instances: read from files as needed, or made on the spot."""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from zsg_jax.data.dataset import NO_FIELDS, Corpus, open_corpus
from zsg_jax.data.formats import natural_instructions
from zsg_jax.data.formats.natural_instructions.prompt import Encode
from zsg_jax.data.instances import Instances, of_corpus, of_list
from zsg_jax.data.joined import Joined, open_mixture
from zsg_jax.data.mixture import Entry, is_mixture, read_mixture
from zsg_jax.data.rewrites import rewrites
from zsg_jax.data.schemas import AUTO, FLAG
from zsg_jax.data.schemas.read import ADVICE, BadRow
from zsg_jax.data.selection import select_sides
from zsg_jax.runtime.buckets import is_address, spelled
from zsg_jax.runtime.errors import check

REWRITES = "rewrites"


def load(
    train: str,
    test: str,
    *,
    bad_rows: str,
    rewrites_options: Mapping[str, Any],
    advice: str = ADVICE,
    format: str = AUTO,
    flag: str = FLAG,
    fields: Mapping[str, str] = NO_FIELDS,
    tasks_options: natural_instructions.Options = natural_instructions.WHOLE,
    encode: Encode | None = None,
    split: str = "",
    train_per_task: int | None = None,
    test_per_task: int | None = None,
    seed: int = 0,
    scratch: Path | None = None,
    stack: ExitStack | None = None,
) -> tuple[Instances, Instances, list[BadRow]]:
    """Opens both sides of a study, checking every row.

    Args:
        train, test: a source as `messages.read_messages` takes it, or "rewrites"; as test also "",
            which gives no instance.
        bad_rows: "refuse" or "skip".
        rewrites_options: train_families, test_families, rules, samples, test_rules, test_samples,
            no_ops and seed; read only where a side is "rewrites".
        advice: the way out that a refusal of a row tells.
        format: the kind of both sides' rows, or "auto".
        flag: what a user gives `format` by.
        fields: new names of fields and their old ones, as `fields.parse_fields` reads them.
        tasks_options, encode: as `natural_instructions.rows` takes them.
        split, train_per_task, test_per_task, seed: as `selection.select_sides` takes them.
        scratch: a folder for what must be unpacked to be read in any order; None: the system's.
        stack: closes the files; without it they stay open while the instances are there.

    Returns:
        Training instances, test instances, and the rows that were skipped.
    """
    skipped: list[BadRow] = []
    unpacked = scratch or Path(tempfile.gettempdir())
    if scratch is not None and stack is not None:
        stack.callback(_remove_empty, scratch)

    def side(path: str, split_name: str, prefix: str, unlike: Instances | None) -> Instances:
        if not path:
            return of_list([])
        if path != REWRITES:
            corpus = open_source(
                path,
                scratch=unpacked,
                bad_rows=bad_rows,
                advice=advice,
                format=format,
                flag=flag,
                fields=fields,
                full_account=True,
                read_tasks=partial(
                    natural_instructions.rows, options=tasks_options, side=split_name, encode=encode
                ),
            )
            if stack is not None:
                stack.enter_context(corpus)
            skipped.extend(corpus.skipped)
            return of_corpus(corpus)
        return of_list(
            rewrites(
                rewrites_options[f"{split_name}_families"],
                rules=rewrites_options[f"{prefix}rules"],
                samples=rewrites_options[f"{prefix}samples"],
                no_ops=rewrites_options["no_ops"],
                seed=rewrites_options["seed"],
                split=split_name,
                unlike=unlike or (),
            )
        )

    train_set = side(train, "train", "", None)
    # Only made rows have rules that could come again.
    test_set = side(test, "test", "test_", train_set if train == REWRITES else None)
    if split or train_per_task or test_per_task:
        train_rows, test_rows = select_sides(
            train_set,
            test_set,
            split=split,
            train_per_task=train_per_task,
            test_per_task=test_per_task,
            seed=seed,
        )
        train_set, test_set = train_set.select(train_rows), test_set.select(test_rows)
    return train_set, test_set, skipped


def open_source(path: str | Path, *, format: str, **options: Any) -> Corpus | Joined:
    """Opens a source as `open_corpus` does, or every source of a mixture."""
    check(
        not is_address(path),
        f"{spelled(path)}: is no file of this machine; copy it to one, or mount the bucket",
    )
    if not is_mixture(path):
        return open_corpus(path, format=format, **options)

    def open_entry(entry: Entry) -> Corpus:
        return open_corpus(
            entry.path,
            format=format if entry.format == AUTO else entry.format,
            **options,
        )

    return open_mixture(read_mixture(path), open_entry)


def _remove_empty(folder: Path) -> None:
    # Files without a name leave nothing in it; another process may still be at work there.
    with suppress(OSError):
        folder.rmdir()
