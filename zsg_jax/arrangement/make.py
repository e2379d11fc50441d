"""A study's arrangements: embeds, looks for leaks, orders, and writes how it was done."""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement, save_arrangement
from zsg_jax.arrangement.comparison import Comparison, Needs
from zsg_jax.arrangement.methods import arrange, caution, made_with, needs
from zsg_jax.data.dataset import Dataset
from zsg_jax.leakage.find import FILE as PAIRS
from zsg_jax.leakage.find import find_leaks
from zsg_jax.runtime.files import write_bytes, write_json
from zsg_jax.runtime.processes import once
from zsg_jax.runtime.progress import bar, count, passes, say
from zsg_jax.similarity.embeddings import Embeddings, SelectedEmbeddings
from zsg_jax.similarity.encoders.choose import choose_encoder
from zsg_jax.similarity.encoders.embed import embed
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.trajectory import FILE as TRAJECTORY
from zsg_jax.similarity.trajectory import Trajectory, save_trajectory, trajectory
from zsg_jax.workdir.claims import LEAKAGE


class Sides(NamedTuple):
    """Both sides of a study, embedded.

    Attributes:
        train: the instances that may be chosen, n of them.
        test: T instances.
        train_rows, test_rows: their embeddings, (n, D) and (T, D).
        encoder: the encoder's name and digest, and the embeddings' dtype.
    """

    train: Dataset
    test: Dataset
    train_rows: Embeddings
    test_rows: Embeddings
    encoder: dict[str, str]

    def toward(self, aimed: np.ndarray) -> "Sides":
        """The same with the test rows `aimed` alone, (n,) int64 ascending."""
        if len(aimed) == len(self.test):
            return self
        test = self.test.select(aimed)
        return self._replace(test=test, test_rows=SelectedEmbeddings(self.test_rows, aimed))


def embed_sides(
    train: Dataset,
    test: Dataset,
    encoder: str,
    folder: Path,
    *,
    dtype: str = "float32",
) -> Sides:
    """Embeds both sides by what `choose_encoder` takes; `folder` keeps the rows in `dtype`."""
    chosen = choose_encoder(encoder)
    started = time.perf_counter()
    train_rows, test_rows = (
        embed(
            side.texts,
            chosen,
            folder / name,
            dtype=dtype,
            description=f"embedding {name}",
        )
        for name, side in (("train", train), ("test", test))
    )
    seconds = time.perf_counter() - started
    count = len(train_rows) + len(test_rows)
    say(f"embeddings: {count:,} rows by {chosen.name}, {seconds:.1f} s")
    facts = {"encoder": chosen.name, "encoder_digest": chosen.fingerprint, "dtype": dtype}
    return Sides(train, test, train_rows, test_rows, facts)


def make_inputs(
    sides: Sides,
    methods: Iterable[str],
    measures: Sequence[str],
    *,
    leaks: bool,
    distance: str,
    w_min: float,
    w_avg: float | None,
    budget: int | None,
    search: Search,
) -> Comparison:
    """What the arrangements `methods` are made from; one pass gives all that they share.

    Args:
        sides: what may be chosen, and what to arrange toward.
        methods: names as in `methods.METHODS`.
        measures: of the trajectory, from `trajectory.MEASURES`.
        leaks: whether `look_for_leaks` is going to ask for the statistics.
        distance, w_min, w_avg, budget, search: as `Comparison` takes them.
    """
    statistics = Needs.STATISTICS if leaks or "wsd" in measures else Needs.NOTHING
    return Comparison(
        sides.train_rows,
        sides.test_rows,
        sides.train.task_index,
        budget=budget,
        distance=distance,
        w_min=w_min,
        w_avg=w_avg,
        needs=needs(methods) | statistics,
        search=search,
    )


def look_for_leaks(
    folder: Path,
    sides: Sides,
    numbers: tuple[np.ndarray, np.ndarray],
    *,
    largest: np.ndarray | None,
    search: Search,
) -> None:
    """Writes `leakage.jsonl` and `leakage.json`, the pairs and their summary, and says it.

    `numbers` and `largest` are those of `find_leaks`.
    """
    with bar(None, "leakage") as progress:
        found = find_leaks(
            sides.train,
            list(sides.test),
            sides.train_rows,
            sides.test_rows,
            folder=folder,
            indices=numbers,
            largest=largest,
            search=search.with_progress(passes(progress)),
        )
    say(found.sentence(f"the pairs are in {folder / PAIRS}"))
    summary = {"sentence": found.sentence(), **sides.encoder, **found.summary()}
    once("write leakage", lambda: write_json(folder / LEAKAGE, summary))


def is_made(folder: Path) -> bool:
    """Whether `make_arrangements` has written everything of the arrangement in `folder`."""
    return (folder / TRAJECTORY).exists()


def make_arrangements(
    folders: dict[str, Path],
    sides: Sides,
    inputs: Comparison,
    usable: np.ndarray,
    *,
    seed: int,
    batch_size: int,
    steps: int | None,
    every: int,
    measures: Sequence[str],
    provenance: dict[str, Any],
    search: Search,
) -> None:
    """Makes every arrangement named and writes it, with its ids and its trajectory.

    Args:
        folders: arrangement (as in `methods.METHODS`) → where to write it.
        sides: what may be chosen, and what to arrange toward.
        inputs: `make_inputs` of these sides.
        usable: (n,) int64, which row of all training rows each instance of `sides.train` is;
            orders are written as rows of all.
        seed: as `methods` takes it.
        batch_size, steps: rows a step, and how many steps will be taken; None for all.
        every: steps between points of the trajectory.
        measures: of the trajectory, from `trajectory.MEASURES`.
        provenance: facts about the data, kept with each arrangement.
        search: devices, block size and progress.
    """
    # The weights that orders by WSD use, for all arrangements alike.
    weights = inputs.wsd if "wsd" in measures else None
    texts: tuple[Sequence[str], Sequence[str]] | None = None
    if "divergence" in measures:
        texts = (sides.train.texts, sides.test.texts)
    for name, folder in folders.items():
        started = time.perf_counter()
        part = arrange(name, inputs, seed)
        points = trajectory(
            sides.train_rows,
            sides.test_rows,
            part.order if steps is None else part.order[: steps * batch_size],
            batch_size=batch_size,
            every=every,
            measures=measures,
            distance=inputs.distance,
            tasks=sides.test.task_names,
            texts=texts,
            w_min=weights.w_min if weights else 1.0,
            w_avg=weights.w_avg if weights else None,
            search=search,
        )
        # Rows that may not be chosen were never compared; the order counts all rows.
        whole = Arrangement(usable[part.order], part.turn)
        seconds = time.perf_counter() - started
        turns = len(np.unique(whole.turn))
        say(f"{name}: {count(len(whole), 'row')} in {count(turns, 'turn')}, {seconds:.1f} s")
        made = made_with(name, inputs)
        if odd := caution(made):
            say(f"{name}: {odd}")
        facts = {
            "name": name,
            "budget": inputs.budget,
            "seed": seed,
            **sides.encoder,
            "seconds": round(seconds, 3),
            **made,
            **provenance,
        }
        ids = "".join(f"{sides.train.ids[row]}\n" for row in part.order)
        once(f"write {folder.name}", partial(_write, folder, whole, facts, ids, points))


def _write(
    folder: Path, arrangement: Arrangement, facts: dict[str, Any], ids: str, points: Trajectory
) -> None:
    save_arrangement(arrangement, folder, facts)
    write_bytes(folder / "ids.txt", ids.encode())
    # Written last: where it stands, the folder is whole.
    save_trajectory(folder / TRAJECTORY, points)
