"""From two datasets to arrangements, for the study and for the command alike."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.deduplicate import Deduplicated, deduplicate
from zsg_jax.arrangement.embedded import EmbeddedPair
from zsg_jax.arrangement.methods import arrange, caution, made_with, needs
from zsg_jax.arrangement.needs import Needs
from zsg_jax.arrangement.target_sets import of_sets, sets_words
from zsg_jax.data.columns import numbers
from zsg_jax.leakage.find import Leakage, LeakageOptions, find_leaks
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.jax_defaults import check_defaults
from zsg_jax.runtime.progress import bar, count, passes, say
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.search.options import Search


@dataclass(frozen=True)
class MethodOptions:
    """What arrangements are made with.

    Attributes:
        methods: names as `methods.parse` takes them.
        seed: for methods that shuffle.
        budget: examples wanted, None for all.
        distance: "cosine" or "euclidean", what WSD, averages and transport measure.
        w_min, w_avg: WSD's weights; None for the study's.
        deduplicate: the cosine with an earlier training example from which one may not be chosen;
            None: all may.
    """

    methods: Sequence[str]
    seed: int = 0
    budget: int | None = None
    distance: str = "cosine"
    w_min: float = 1.0
    w_avg: float | None = None
    deduplicate: float | None = None


@dataclass(frozen=True)
class LeakSearch:
    """Where and how leaks are looked for.

    Attributes:
        folder: where `leakage.jsonl` goes.
        options: what counts as a leak.
        advice: what the user is told when there are some.
        drop: whether training examples that leak may not be chosen.
    """

    folder: Path
    options: LeakageOptions
    advice: str
    drop: bool = False


@dataclass(frozen=True)
class Compared:
    """What arrangements are made from.

    Attributes:
        pair: the training examples that may be chosen, and the test examples to arrange toward.
        comparison: of this pair.
        leakage: of the whole pair; None where it was not looked for.
        deduplicated: of what does not leak; None where duplicates may be chosen.
        dropped: (k,) int64 ascending, the numbers, of all training examples that were read, of
            those left out because they leak.
    """

    pair: EmbeddedPair
    comparison: Comparison
    leakage: Leakage | None
    deduplicated: Deduplicated | None
    dropped: np.ndarray


class Made(NamedTuple):
    """An arrangement and how it was made.

    Attributes:
        arrangement: by the numbers of all training examples that were read.
        chosen: (n,) int64, the same order by the numbers of the pair it was made from.
        facts: what `made_with` gives.
    """

    arrangement: Arrangement
    chosen: np.ndarray
    facts: dict[str, Any]


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Notes in `seconds` how long a stage takes."""
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)


def compare(
    pair: EmbeddedPair,
    options: MethodOptions,
    *,
    toward: np.ndarray | None = None,
    leaks: LeakSearch | None = None,
    known_leaks: np.ndarray | None = None,
    statistics: bool = False,
    search: Search,
    seconds: dict[str, float] | None = None,
) -> Compared:
    """Looks for leaks and duplicates if asked to, and prepares what arrangements are made from.

    Leaks are looked for among all examples. Where those are also the ones to be arranged, a single
    pass over the embeddings serves both.

    Args:
        pair: all examples.
        options: the arrangements.
        toward: (t,) int64 ascending, the test examples to arrange toward; None: all.
        leaks: None: they are not looked for.
        known_leaks: (k,) int64 numbers of training examples that are left out, where a search has
            found them before.
        statistics: whether each example's statistics will be asked for, whatever the methods need.
        search: devices, block size and progress.
        seconds: takes the time of the stages "similarity", "leakage" and "duplicates".

    Raises:
        UserError: every training example leaks, and leaks are to be dropped.
    """
    check_defaults(training=False)
    seconds = {} if seconds is None else seconds
    asked = needs(options.methods) | (Needs.STATISTICS if statistics else Needs.NOTHING)
    toward = np.arange(len(pair.test)) if toward is None else toward
    leaking = np.isin(pair.train_indices, () if known_leaks is None else known_leaks)
    leakage, comparison = None, None
    if leaks is not None:
        whole = len(toward) == len(pair.test) and not leaks.drop and options.deduplicate is None
        needed = Needs.STATISTICS | (asked if whole else Needs.NOTHING)
        comparison = _comparison(pair, options, needed, search)
        with timed(seconds, "similarity"):
            largest = comparison.cosines.maximum
        with timed(seconds, "leakage"):
            leakage = _look_for_leaks(pair, leaks, largest, search)
        if leaks.drop:
            leaking = leakage.leaking
    stays = np.flatnonzero(~leaking)
    check(
        bool(len(stays) or not len(leaking)),
        f"{setting('arrangement.drop_leaks')}: every training row leaks; nothing is left",
    )
    twins = None
    if options.deduplicate is not None:
        # Only then: what a duplicate is left out for must itself stay.
        with timed(seconds, "duplicates"):
            staying = pair.select(stays, np.arange(len(pair.test)))
            twins = deduplicate(staying, options.deduplicate, search)
        stays = np.delete(stays, twins.found.rows)
    part = pair.select(stays, toward)
    if comparison is None or part is not pair:
        comparison = _comparison(part, options, asked, search)
    return Compared(part, comparison, leakage, twins, pair.train_indices[leaking])


def _comparison(
    pair: EmbeddedPair, options: MethodOptions, asked: Needs, search: Search
) -> Comparison:
    return Comparison(
        pair.train_embeddings,
        pair.test_embeddings,
        pair.train.task_index,
        budget=options.budget,
        distance=options.distance,
        w_min=options.w_min,
        w_avg=options.w_avg,
        needs=asked,
        search=search,
        scores=partial(numbers, pair.train),
        sets=pair.test.sets,
        set_index=pair.test.set_index,
    )


def _look_for_leaks(
    pair: EmbeddedPair, leaks: LeakSearch, largest: np.ndarray, search: Search
) -> Leakage:
    with bar(None, "leakage") as progress:
        leakage = find_leaks(
            pair.train,
            list(pair.test),
            pair.train_embeddings,
            pair.test_embeddings,
            leaks.options,
            folder=leaks.folder,
            indices=(pair.train_indices, pair.test_indices),
            largest=largest,
            search=search.with_progress(passes(progress)),
        )
    say(leakage.sentence(leaks.advice))
    return leakage


def make(name: str, compared: Compared, seed: int) -> Made:
    """The arrangement that `name` stands for, and a line about it for the user.

    Args:
        name: as `methods.parse` takes it.
        compared: what it is made from.
        seed: for a method that shuffles.
    """
    started = time.perf_counter()
    part = arrange(name, compared.comparison, seed)
    facts = made_with(name, compared.comparison) | of_sets(name, compared.comparison, part.order)
    # Examples that may not be chosen were never compared; the order counts all of them.
    arrangement = Arrangement(compared.pair.train_indices[part.order], part.turn)
    sizes = arrangement.turn_sizes[arrangement.turn_sizes > 0]
    shown = ", ".join(f"{size:,}" for size in sizes[:10]) + (", …" if len(sizes) > 10 else "")
    seconds = time.perf_counter() - started
    say(
        f"{name}: {count(len(arrangement), 'row')} in {count(len(sizes), 'turn')} of {shown}, "
        f"{seconds:.1f} s"
    )
    if odd := caution(facts):
        say(f"{name}: {odd}")
    for of, told in sets_words(facts).items():
        say(f"{name}: {of}: {told}")
    return Made(arrangement, part.order, facts)
