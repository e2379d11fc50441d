"""From what the config names to datasets: read from files as needed, or made on the spot."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from zsg_jax.data.dataset import Dataset, from_list, join
from zsg_jax.data.formats.fields import OldNames
from zsg_jax.data.mixture import is_mixture, mix, read_mixture, target_sets
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.data.rewrites import rewrites
from zsg_jax.data.schemas.registry import AUTO
from zsg_jax.data.splits import EVERYTHING, Selection, select_sides
from zsg_jax.runtime.buckets import is_address, spelled
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import count, say

REWRITES = "rewrites"


def load(
    train: str,
    test: str,
    options: ReadOptions,
    stack: ExitStack,
    *,
    rewrites_options: Mapping[str, Any],
    selection: Selection = EVERYTHING,
) -> tuple[Dataset, Dataset]:
    """Opens the training and the test side of a study, checking every record.

    Args:
        train, test: a source as `open_source` takes it, or "rewrites"; as test also "", which gives
            no instance.
        options: how sources are read.
        stack: closes the sources, and removes the scratch folder if it is empty.
        rewrites_options: train_families, test_families, rules, samples, test_rules, test_samples,
            no_ops and seed; read only where a side is "rewrites".
        selection: which examples are used.
    """
    stack.callback(_remove_empty, options.scratch)
    with together(options) as read:
        if train == REWRITES:
            train_set = _rewrites("train", "", rewrites_options)
        else:
            train_set = stack.enter_context(open_source(train, read, "train"))
        if test == REWRITES:
            # Only made examples have rules that could come again.
            unlike = train_set if train == REWRITES else from_list([])
            test_set = _rewrites("test", "test_", rewrites_options, unlike)
        elif test:
            test_set = stack.enter_context(open_source(test, read, "test"))
        else:
            test_set = from_list([])
    return select_sides(train_set, test_set, selection)


def refuse_rewrites(side: str, given: str | None) -> None:
    """Refuses "rewrites" alone for --train or --test, where no config says which rows are meant."""
    of_side = ",side=test" if side == "test" else ""
    check(
        given != REWRITES,
        f"--{side} {REWRITES}: is made on the spot by every study; give a file, or say which rows, "
        f"as {REWRITES}:rules=1024,samples=10{of_side}",
    )


@contextmanager
def together(options: ReadOptions) -> Iterator[ReadOptions]:
    """Options by which several sources are read, of which each may lack fields that another has.

    Raises:
        UserError: at the end, for the old name of a field that none of them has.
    """
    if options.old_names is not None or not options.fields:
        yield options
        return
    names = OldNames()
    yield dataclasses.replace(options, old_names=names)
    names.check()


def open_source(path: str | Path, options: ReadOptions, side: str = "train") -> Dataset:
    """Opens a source as `open_dataset` does, or every source of a mixture."""
    check(
        not is_address(path),
        f"{spelled(path)}: is no file of this machine; copy it to one, or mount the bucket",
    )
    return (open_mixture if is_mixture(path) else open_dataset)(path, options, side)


def open_mixture(path: str | Path, options: ReadOptions, side: str = "train") -> Dataset:
    """Opens every source of a mixture and joins their examples, saying how many each gives.

    Raises:
        UserError: as `read_mixture`, `open_dataset` and `mix` do; where a source cannot be opened
            it names mixture and entry.
    """
    mixture = read_mixture(path)
    sets = target_sets(mixture)
    check(
        not sets or side == "test",
        f'{mixture.path}: "share" and "budget" are of sets of test rows, which choose training '
        'rows; give training rows a "weight" and a "cap"',
    )
    datasets: dict[str, Dataset] = {}
    with ExitStack() as stack:
        with together(options) as read:
            for entry in mixture.entries:
                own = read
                if entry.format != AUTO:
                    own = dataclasses.replace(read, format=entry.format)
                try:
                    dataset = open_dataset(entry.path, own, side)
                except UserError as error:
                    raise UserError(f"{entry.label}: {error}") from None
                datasets[entry.name] = stack.enter_context(dataset)
        _check_alike(mixture.path, [dataset.schema for dataset in datasets.values()])
        source, index = mix(mixture, [len(dataset) for dataset in datasets.values()])
        joined = join(mixture.path, datasets, source, index)
        stack.pop_all()
    shares = ", ".join(
        f"{name} {int((source == number).sum()):,} of {len(dataset):,}"
        for number, (name, dataset) in enumerate(datasets.items())
    )
    say(f"{mixture.path.name}: {count(len(joined), 'row')} mixed: {shares}")
    return dataclasses.replace(joined, sets=sets, set_index=source) if sets else joined


def _check_alike(path: Path, schemas: list[str]) -> None:
    """Refuses what rows of messages, as those of a mixture of schemas become, cannot hold."""
    lost = [one for one in schemas if one in ("preference", "text")]
    check(
        not lost or len(set(schemas)) == 1,
        f"{path}: mixes rows of {' and '.join(sorted(set(schemas)))}, but those of "
        f"{' and '.join(lost)} go with their like alone; arrange them apart",
    )


def _rewrites(
    split: str, prefix: str, options: Mapping[str, Any], unlike: Dataset | None = None
) -> Dataset:
    instances = rewrites(
        options[f"{split}_families"],
        rules=options[f"{prefix}rules"],
        samples=options[f"{prefix}samples"],
        no_ops=options["no_ops"],
        seed=options["seed"],
        split=split,
        unlike=unlike or (),
    )
    return from_list(instances)


def _remove_empty(folder: Path) -> None:
    # Files without a name leave nothing in it; another process may still be at work there.
    with suppress(OSError):
        folder.rmdir()
