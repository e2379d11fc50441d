"""From two datasets to written arrangements, for the study and for the command alike."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement, load_arrangement, save_arrangement
from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.deduplicate import Deduplicated, deduplicate
from zsg_jax.arrangement.embedded import EmbeddedPair
from zsg_jax.arrangement.epochs import ORDERED, epochs
from zsg_jax.arrangement.methods import arrange, caution, made_with, needs
from zsg_jax.arrangement.needs import Needs
from zsg_jax.arrangement.target_sets import of_sets, sets_words
from zsg_jax.data.columns import numbers
from zsg_jax.leakage.find import Leakage, LeakageOptions, find_leaks
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import write_bytes
from zsg_jax.runtime.jax_defaults import check_defaults
from zsg_jax.runtime.processes import once
from zsg_jax.runtime.progress import bar, count, passes, say
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.trajectory import FILE as TRAJECTORY
from zsg_jax.similarity.trajectory import (
    Trajectory,
    load_trajectory,
    save_trajectory,
    trajectory,
)

IDS = "ids.txt"


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
        deduplicated: of the whole pair; None where all may be chosen.
        dropped: (k,) int64 ascending, the numbers, of all training examples that were read, of
            those left out because they leak; a duplicate is counted as that alone.
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


@dataclass(frozen=True)
class Course:
    """How arrangements are going to be trained on, and what is measured along the way.

    Attributes:
        batch_size: examples of a step.
        steps: to be taken, None for all.
        every: steps between evaluations.
        measures: names from `trajectory.MEASURES`.
        first: what the first epoch does with an order, as `epochs.epochs` takes it; the similarity
            of the examples seen changes in it alone.
    """

    batch_size: int
    steps: int | None
    every: int
    measures: Sequence[str]
    first: Sequence[str] = (ORDERED,)


# What arrangements embedded that do not say it.
_PLAIN = {"text": "both", "train_prompt": "", "test_prompt": ""}


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
    """Looks for duplicates and leaks if asked to, and prepares what arrangements are made from.

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
        seconds: takes the time of the stages "duplicates", "similarity" and "leakage".

    Raises:
        UserError: every training example that is no duplicate leaks, and leaks are to be dropped.
    """
    check_defaults(training=False)
    seconds = {} if seconds is None else seconds
    asked = needs(options.methods) | (Needs.STATISTICS if statistics else Needs.NOTHING)
    stays, twins = np.ones(len(pair.train), bool), None
    if options.deduplicate is not None:
        with timed(seconds, "duplicates"):
            twins = deduplicate(pair, options.deduplicate, search)
        stays[twins.found.rows] = False
    toward = np.arange(len(pair.test)) if toward is None else toward
    leaking = np.isin(pair.train_indices, () if known_leaks is None else known_leaks)
    leakage, comparison = None, None
    if leaks is not None:
        whole = len(toward) == len(pair.test) and not leaks.drop and bool(stays.all())
        needed = Needs.STATISTICS | (asked if whole else Needs.NOTHING)
        comparison = _comparison(pair, options, needed, search)
        with timed(seconds, "similarity"):
            largest = comparison.cosines.maximum
        with timed(seconds, "leakage"):
            leakage = _look_for_leaks(pair, leaks, largest, search)
        if leaks.drop:
            leaking = leakage.leaking
    dropped = leaking & stays
    stays &= ~leaking
    check(
        bool(stays.any() or not dropped.any()),
        f"{setting('arrangement.drop_leaks')}: every training row leaks; nothing is left",
    )
    part = pair.select(np.flatnonzero(stays), toward)
    if comparison is None or part is not pair:
        comparison = _comparison(part, options, asked, search)
    return Compared(part, comparison, leakage, twins, pair.train_indices[dropped])


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


def is_made(folder: Path) -> bool:
    """Whether `make_and_write` has written everything of the arrangement in `folder`."""
    return (folder / TRAJECTORY).exists()


def steps_held(folder: Path, batch_size: int, epochs: int = 1) -> int:
    """The steps of `batch_size` examples that the arrangement in `folder` holds in so many epochs.

    Raises:
        UserError: it is damaged.
    """
    return -(-epochs * len(load_arrangement(folder)[0]) // batch_size)


def reaches(folder: Path, steps: int) -> bool:
    """Whether the trajectory of what `is_made` goes as far as so many steps."""
    return bool(load_trajectory(folder / TRAJECTORY).step[-1] >= steps)


def is_whole(folder: Path) -> bool:
    """Whether that is all there still, with what follows from it."""
    return is_made(folder) and (folder / IDS).exists()


def make_and_write(
    folders: Mapping[str, Path],
    compared: Compared,
    options: MethodOptions,
    course: Course,
    *,
    provenance: dict[str, Any],
    search: Search,
    explain: Callable[[Path, Made, Compared], object] = lambda *_: None,
) -> None:
    """Makes arrangements and writes each with the ids of its examples and its trajectory.

    Args:
        folders: where each goes, by its name.
        compared, options: what they are made from, and with.
        course: how they will be trained on. One that was made for fewer steps is made again, in
            the same order, and followed further.
        provenance: facts about the data, kept with each arrangement.
        search: devices, block size and progress.
        explain: writes more about an arrangement into its folder, before it counts as made.
    """
    for name, folder in folders.items():
        started = time.perf_counter()
        made = make(name, compared, options.seed)
        check(
            not is_made(folder)
            or np.array_equal(load_arrangement(folder)[0].order, made.arrangement.order),
            f"{folder}: made again, its order is another, so what was trained in it cannot go on; "
            f"something that decides it has changed. Give another {setting('workdir')}",
        )
        points = _follow(epochs(made.chosen, course.first, options.seed), compared, course, search)
        explain(folder, made, compared)
        facts = {
            "name": name,
            "budget": options.budget,
            "seed": options.seed,
            **compared.pair.encoder_facts,
            "seconds": round(time.perf_counter() - started, 3),
            **made.facts,
            **(compared.deduplicated.facts if compared.deduplicated else {}),
            **provenance,
        }
        ids = id_lines(compared.pair.train.ids, made.chosen)
        once(f"write {folder.name}", partial(_write, folder, made.arrangement, facts, ids, points))


def _list_ids(folder: Path, ids: Sequence[str], order: np.ndarray) -> None:
    if not (folder / IDS).exists():
        write_bytes(folder / IDS, id_lines(ids, order))


def id_lines(ids: Sequence[str], order: np.ndarray) -> bytes:
    """The ids of an order of examples, a line each."""
    return "".join(f"{ids[index]}\n" for index in order).encode()


def load_all(
    folders: Mapping[str, Path], provenance: dict[str, Any], ids: Sequence[str]
) -> dict[str, Arrangement]:
    """Loads what `make_and_write` has written, and lists the ids again where that list is gone.

    Args:
        folders: where each arrangement lies, by its name.
        provenance: facts about the data that all must have been made with.
        ids: of all training examples.

    Raises:
        UserError: an arrangement is damaged, or was made from other data or with another encoder.
    """
    arrangements: dict[str, Arrangement] = {}
    encoders: dict[str, str | None] = {}
    texts: list[Any] = []
    for name, folder in folders.items():
        arrangements[name], found = load_arrangement(folder)
        check(
            all(found.get(key) == value for key, value in provenance.items()),
            f"{folder}: was made from other instances; delete the folder to make it again",
        )
        encoders[name] = found.get("encoder_digest")
        texts.append(found.get("embedded", _PLAIN))
        once(f"ids of {name}", partial(_list_ids, folder, ids, arrangements[name].order))
    parts = "; ".join(f"{name}: {digest}" for name, digest in encoders.items())
    check(
        len(set(encoders.values())) <= 1,
        f"{folder.parent}: not all were made with the same encoder ({parts}): "
        f"{setting('similarity.encoder')} has changed since; give another {setting('workdir')}, "
        "or put it back and delete what the other one made",
    )
    check(
        all(one == texts[0] for one in texts),
        f"{folder.parent}: not all were made of the same texts: a prompt or the template of "
        f"{setting('similarity.text')} has changed since; give another {setting('workdir')}, or "
        "put it back",
    )
    return arrangements


def _follow(order: np.ndarray, compared: Compared, course: Course, search: Search) -> Trajectory:
    pair, steps = compared.pair, course.steps
    # The weights that orders by WSD use, for all arrangements alike.
    weights = compared.comparison.wsd if "wsd" in course.measures else None
    return trajectory(
        pair.train_embeddings,
        pair.test_embeddings,
        order if steps is None else order[: steps * course.batch_size],
        batch_size=course.batch_size,
        every=course.every,
        measures=course.measures,
        distance=compared.comparison.distance,
        tasks=pair.test.task_names,
        texts=(pair.train.texts, pair.test.texts) if "divergence" in course.measures else None,
        w_min=weights.w_min if weights else 1.0,
        w_avg=float(weights.w_avg) if weights else None,
        search=search,
    )


def _write(
    folder: Path, arrangement: Arrangement, facts: dict[str, Any], ids: bytes, points: Trajectory
) -> None:
    save_arrangement(arrangement, folder, facts)
    write_bytes(folder / IDS, ids)
    # Written last: where it stands, the folder is whole.
    save_trajectory(folder / TRAJECTORY, points)
