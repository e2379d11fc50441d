"""Arrangements in their folders: written with what follows from them, and loaded again."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement, load_arrangement, save_arrangement
from zsg_jax.arrangement.epochs import ORDERED, epochs, read_anew
from zsg_jax.arrangement.make import Compared, Made, MethodOptions, make
from zsg_jax.arrangement.methods import columns
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import write_bytes
from zsg_jax.runtime.order_digest import OrderDigest
from zsg_jax.runtime.processes import once
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.trajectory import FILE as TRAJECTORY
from zsg_jax.similarity.trajectory import Trajectory, load_trajectory, save_trajectory, trajectory
from zsg_jax.workdir.layout import rearranged_folder

IDS = "ids.txt"
# What decides an order besides its rows and its encoder; those of earlier versions do not tell.
SETTINGS, SCORES = "settings", "scores_digests"
# What arrangements embedded that do not say it.
_PLAIN = {"text": "both", "train_prompt": "", "test_prompt": ""}


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
    data = {k: value for k, value in provenance.items() if k not in (SETTINGS, SCORES)}
    arrangements: dict[str, Arrangement] = {}
    made: dict[str, Mapping[str, Any]] = {}
    for name, folder in folders.items():
        arrangements[name], found = load_arrangement(folder)
        again = f"delete it and runs/{name}-seed*, which followed it, to make both again"
        check(
            found.get("name", name) == name,
            f"{folder}: holds the order {found.get('name')!r}; {again}",
        )
        check(
            all(found.get(key) == value for key, value in data.items()),
            f"{folder}: was made from other instances; {again}",
        )
        _check_settings(found, provenance, folder, again)
        made[name] = found
        once(f"ids of {name}", partial(_list_ids, folder, ids, arrangements[name].order))
    _check_alike(made, folder.parent)
    return arrangements


def _check_settings(
    found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path, again: str
) -> None:
    """Refuses an arrangement that other settings, or other numbers of the same rows, have made."""
    given = wanted.get(SETTINGS, {})
    for key, value in found.get(SETTINGS, {}).items():
        check(
            given.get(key, value) == value,
            f"{folder}: was made with {key}={value!r}, the study has {given.get(key)!r}; {again}",
        )
    scores = wanted.get(SCORES, {})
    for column in columns([folder.name]):
        digest = found.get(SCORES, {}).get(column)
        check(
            digest is None or scores.get(column, digest) == digest,
            f"{folder}: was made with other numbers {column!r}; {again}",
        )


def check_encoder(folders: Iterable[Path], facts: Mapping[str, Any]) -> None:
    """Refuses arrangements that are made by another encoder, or of other texts, than there is now.

    Args:
        folders: where arrangements are, or will be.
        facts: `EmbeddedPair.encoder_facts` of now.
    """
    for folder in filter(is_made, folders):
        _check_alike({folder.name: load_arrangement(folder)[1], "now": facts}, folder.parent)


def _check_alike(made: Mapping[str, Mapping[str, Any]], where: Path) -> None:
    encoders = {name: facts.get("encoder_digest") for name, facts in made.items()}
    texts = [facts.get("embedded", _PLAIN) for facts in made.values()]
    parts = "; ".join(f"{name}: {digest}" for name, digest in encoders.items())
    check(
        len(set(encoders.values())) <= 1,
        f"{where}: not all were made with the same encoder ({parts}): "
        f"{setting('similarity.encoder')} has changed since; give another {setting('workdir')}, "
        "or put it back and delete what the other one made",
    )
    check(
        all(one == texts[0] for one in texts),
        f"{where}: not all were made of the same texts: a prompt or the template of "
        f"{setting('similarity.text')} has changed since; give another {setting('workdir')}, or "
        "put it back",
    )


def check_followed(
    run: Path, ended: Mapping[str, Any], arrangement: Path, rules: Sequence[str], seed: int
) -> None:
    """Refuses a finished run that took other examples than its order has by now.

    Args:
        run: its folder.
        ended: what its finished.json says.
        arrangement: the folder of its order, of which ids.txt may be missing.
        rules, seed: as `epochs` takes them.
    """
    if anew := read_anew(rules).steps:
        arrangement = rearranged_folder(run, anew[-1])
    if "order_digest" not in ended or not (arrangement / IDS).exists():
        return
    ids = (arrangement / IDS).read_bytes().decode(errors="replace").split("\n")[:-1]
    taken = epochs(np.arange(len(ids)), rules, seed)[: ended["instances"]]
    check(
        OrderDigest(ids).feed(taken) == ended["order_digest"],
        f"{run}: was trained in another order than {arrangement} holds; put that one back, or "
        f"delete {run} to train this run anew",
    )


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
