"""Which examples a study uses: by a split of the tasks, so many a task, and for scoring only."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from zsg_jax.data.dataset import Dataset
from zsg_jax.data.formats.jsonl import json_file, named_once
from zsg_jax.data.sampling import sample
from zsg_jax.data.schemas.read import NO_TASK
from zsg_jax.runtime.errors import check, did_you_mean
from zsg_jax.runtime.progress import count, say
from zsg_jax.runtime.settings import setting

HELD_OUT = "held-out:"
KEYS = ("train_key_list", "eval_key_list")


class Split(NamedTuple):
    """Names of the tasks to train on and of those to test on; no name is in both."""

    train: frozenset[str]
    test: frozenset[str]


class Selection(NamedTuple):
    """Which examples of both sides are used.

    Attributes:
        split: as `choose_split` takes it; "" uses every task of each side.
        train_per_task, test_per_task: examples at most of a task, drawn by seed; None: all.
        seed: every draw.
    """

    split: str = ""
    train_per_task: int | None = None
    test_per_task: int | None = None
    seed: int = 0


EVERYTHING = Selection()


def check_split(split: str) -> None:
    """Refuses what `choose_split` could not read; a path is looked into only there.

    Raises:
        UserError: for "held-out:…" with neither a number of tasks nor a share of them.
    """
    if split.startswith(HELD_OUT):
        _held_out_size(split, 2)


def choose_split(
    split: str, train_tasks: Sequence[str], test_tasks: Sequence[str], seed: int
) -> Split:
    """The tasks of either side: as a file lists them, or some of the test's held out by seed.

    Args:
        split: the path of a JSON file with the lists "train_key_list" and "eval_key_list" (P3's
            and Flan-mini's), or "held-out:N" for N tasks, "held-out:0.1" for a tenth of them. The
            tasks drawn stay the same when examples, or tasks that are not drawn, come or go.
        train_tasks, test_tasks: the tasks that each side's examples have.
        seed: the draw.

    Raises:
        UserError: for a file that cannot be used, a task on both sides, a key that no example has,
            and for a side without a task.
    """
    if not split.startswith(HELD_OUT):
        return _from_file(Path(split), train_tasks, test_tasks)
    # Examples without a task cannot be kept apart by task.
    named = sorted(set(test_tasks) - {NO_TASK})
    size = _held_out_size(split, len(named))
    test = frozenset(named[index] for index in sample(named, size, seed, "held out"))
    train = frozenset(train_tasks) - test
    check(
        size <= len(named) and bool(train),
        f"{setting('data.split', repr(split))} would hold out {size:,} tasks: the test rows have "
        f"{len(named):,} with a name, and {len(train):,} would be left to train on; hold out fewer",
    )
    return Split(train, test)


def _from_file(path: Path, train_tasks: Collection[str], test_tasks: Collection[str]) -> Split:
    content = json_file(
        path,
        f"{setting('data.split')} is a JSON file with {KEYS[0]} and {KEYS[1]}, or {HELD_OUT}N",
        object_pairs_hook=named_once,
    )
    given = setting("data.split", path)
    sides = []
    for key, side, tasks in zip(KEYS, Split._fields, (train_tasks, test_tasks), strict=True):
        listed = content.get(key) if isinstance(content, dict) else None
        check(
            isinstance(listed, list)
            and bool(listed)
            and all(isinstance(name, str) for name in listed),
            f'{given}: "{key}" must be a list of task names, at least one',
        )
        missing = set(listed or ()).difference(tasks)
        check(
            not missing,
            f"{given}: {key}: no row of {setting(f'data.{side}')} has the task of "
            f"{_named(missing)}; take it out of the list, or give the rows"
            + (did_you_mean(min(missing), tasks) if missing else ""),
        )
        sides.append(frozenset(listed or ()))
    both = sides[0] & sides[1]
    check(
        not both,
        f"{given}: {_named(both)} in both lists, so not unseen; take each out of one",
    )
    return Split(*sides)


def _held_out_size(split: str, tasks: int) -> int:
    """How many of so many tasks are held out."""
    text = split.removeprefix(HELD_OUT)
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if text.isascii() and text.isdigit() and int(text):
        return int(text)
    check(
        0 < share < 1,
        f"{setting('data.split', repr(split))}: {text!r} is neither a number of tasks nor a "
        f"share between 0 and 1; write {HELD_OUT}20 or {HELD_OUT}0.1",
    )
    return max(1, round(share * tasks))


def _named(names: Collection[str]) -> str:
    shown = ", ".join(map(repr, sorted(names)[:5]))
    return shown + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def select_sides(train: Dataset, test: Dataset, selection: Selection) -> tuple[Dataset, Dataset]:
    """The examples of both sides that a study uses; with a split they may come from the same file.

    Raises:
        UserError: as `choose_split` does.
    """
    _tell_alike({*train.tasks, *test.tasks})
    split, seed = selection.split, selection.seed
    chosen = choose_split(split, train.tasks, test.tasks, seed) if split else None
    return (
        _select("train", train, chosen and chosen.train, selection.train_per_task, seed),
        _select("test", test, chosen and chosen.test, selection.test_per_task, seed),
    )


def _tell_alike(names: Collection[str]) -> None:
    """Says which tasks are told apart by nothing that can be seen."""
    one = {name: unicodedata.normalize("NFKC", name).strip() for name in names}
    several = Counter(one.values())
    alike = sorted(name for name in one if several[one[name]] > 1)
    if alike:
        say(
            f"tasks: {len(alike):,} names, such as {_named(alike[:2])}, look like one another and "
            "differ in white space around them or in how Unicode writes their letters (NFC, NFD, "
            "NFKC); they count as different tasks, so write all in one form"
        )


def _select(
    side: str, dataset: Dataset, keep: Collection[str] | None, per_task: int | None, seed: int
) -> Dataset:
    indices = select(dataset, keep=keep, per_task=per_task, seed=seed)
    if len(indices) == len(dataset):
        return dataset
    chosen = dataset.select(indices)
    say(
        f"{side}: {len(chosen):,} of {count(len(dataset), 'row')} and "
        f"{len(np.unique(chosen.task_index)):,} of {count(len(dataset.tasks), 'task')} are used"
    )
    return chosen


def select(
    dataset: Dataset,
    *,
    keep: Collection[str] | None = None,
    per_task: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """The examples of some tasks, of each at most so many, drawn by seed.

    What is drawn of a task hangs on the seed, the task's name and its examples' ids alone: other
    tasks, and the order of the examples, change nothing.

    Args:
        dataset: N examples.
        keep: the tasks to take examples of; None: all.
        per_task: examples at most of a task; None: all.
        seed: the draw.

    Returns:
        (n,) int64 indices, ascending.
    """
    wanted = np.array([keep is None or name in keep for name in dataset.tasks], bool)
    indices = np.flatnonzero(wanted[dataset.task_index])
    if per_task is None:
        return indices
    drawn = [np.empty(0, np.int64)]
    for own in _by_task(indices, dataset.task_index[indices]):
        if len(own) > per_task:
            name = dataset.tasks[dataset.task_index[own[0]]]
            own = own[sample([dataset.ids[one] for one in own], per_task, seed, "row", name)]
        drawn.append(own)
    return np.sort(np.concatenate(drawn))


def _by_task(indices: np.ndarray, task_index: np.ndarray) -> list[np.ndarray]:
    """The indices of each task, in their order; (n,) tasks of (n,) indices."""
    # A stable sort lays each task's together, without a pass over all for each task.
    order = np.argsort(task_index, kind="stable")
    starts = np.unique(task_index[order], return_index=True)[1]
    return np.split(indices[order], starts[1:])


def report_split(
    task_index: np.ndarray,
    fraction: float,
    seed: int,
    conversation: np.ndarray | None = None,
    set_index: np.ndarray | None = None,
) -> np.ndarray:
    """Draws examples for scoring only from every task; the others are there to arrange toward.

    Of n ≥ 2 examples of a task `round(fraction·n)` are drawn, but at least one and at most n - 1; a
    task's only example is never drawn. The answers of a conversation are drawn together, as one.
    Where that leaves a target set nothing to arrange toward, each set's examples of a task are
    drawn from as if they were a task.

    Args:
        task_index: (T,) int32 task of each test example.
        fraction: share for scoring, between 0 and 1.
        seed: the draw; the same arguments give the same examples.
        conversation: (T,) int, which one each example is an answer of; None: each is one.
        set_index: (T,) int32 target set of each test example; None: there are none.

    Returns:
        (T,) bool, true for examples that are for scoring only.

    Raises:
        UserError: for a fraction that is not between 0 and 1, or where either side would be empty.
    """
    check(0 < fraction < 1, f"a report fraction of {fraction} is none; give one between 0 and 1")
    together = np.arange(len(task_index)) if conversation is None else conversation
    _, first, of_one = np.unique(together, return_index=True, return_inverse=True)
    kept = _drawn(task_index[first], fraction, seed)
    if set_index is not None and len(np.setdiff1d(set_index, set_index[first[~kept]])):
        of_set = np.stack([task_index, set_index], axis=1)[first]
        kept = _drawn(np.unique(of_set, axis=0, return_inverse=True)[1].ravel(), fraction, seed)
    of_what = " rows" if conversation is None else " conversations"
    check(
        bool(kept.any()),
        f"the {len(task_index)} test rows cannot be split: no task has two{of_what}; "
        "give a larger test set or no report fraction",
    )
    return kept[of_one]


def _drawn(task_index: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """(n,) bool, which are drawn, a share of every task's; (n,) tasks."""
    rng = np.random.Generator(np.random.PCG64(seed))
    kept = np.zeros(len(task_index), bool)
    for own in _by_task(np.arange(len(task_index)), task_index):
        if len(own) >= 2:
            size = min(max(round(fraction * len(own)), 1), len(own) - 1)
            kept[rng.choice(own, size, replace=False)] = True
    return kept
