"""Arranges a file of training examples toward a file of test examples, and writes them in order.

Examples are streamed: some tens of bytes are held for each of them, however long its text is. Only
optimal transport holds all embeddings.
"""

import dataclasses
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.arrangement.arrangement import save_arrangement
from zsg_jax.arrangement.embedded import Embedded, EmbeddedPair, embed_pair, open_pair
from zsg_jax.arrangement.make import Compared, LeakSearch, Made, MethodOptions, compare, make, timed
from zsg_jax.arrangement.methods import example_distance, parse
from zsg_jax.arrangement.scores import check_scores
from zsg_jax.arrangement.target_sets import sets_facts
from zsg_jax.arrangement.written import IDS
from zsg_jax.data import export
from zsg_jax.data.dataset import Dataset
from zsg_jax.data.formats.fields import parse_fields
from zsg_jax.data.formats.natural_instructions.options import from_text
from zsg_jax.data.reading import ReadOptions
from zsg_jax.data.schemas.read import NO_TASK, tell_skipped
from zsg_jax.data.sources import open_source, together
from zsg_jax.data.splits import report_split
from zsg_jax.data.views import view_words
from zsg_jax.leakage.options import LeakageOptions, near_in
from zsg_jax.runtime.files import at_home, npy_bytes, replacing, write_bytes
from zsg_jax.runtime.progress import bar, count, passes, say
from zsg_jax.runtime.settings import named_by
from zsg_jax.similarity.search.options import Search
from zsg_jax.workdir.lock import locked
from zsg_jax.workflows.arrange_options import FLAGS, ArrangeOptions, check_options
from zsg_jax.workflows.arrange_output import (
    AIMED,
    ARRAYS,
    LINES,
    PAGE,
    SCORED,
    OutFolder,
    claimed,
)


@named_by(FLAGS)
def run(options: ArrangeOptions) -> Path:
    """Arranges as `options` say and writes the result into their `output` folder.

    The folder then holds order.npy, turn.npy, line.npy, ids.txt, arrangement.json, leakage.jsonl
    and the arranged records; explain.html, or test_aimed.jsonl and test_scored.jsonl, where asked
    for; and embeddings/, from which another arrangement of the same examples is made sooner.

    Returns:
        The path of the arranged records.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    check_options(options)
    seconds: dict[str, float] = {}
    search = Search(Mesh(np.asarray(jax.local_devices()), ("rows",)), options.block_rows)
    with ExitStack() as stack:
        folder = stack.enter_context(claimed(options.output))
        with timed(seconds, "reading"):
            with together(_read_options(options, folder)) as read:
                train, test = (
                    stack.enter_context(open_source(path, read, side))
                    for side, path in (("train", options.train), ("test", options.test))
                )
            _tell(options, train, test)
            check_scores((options.method,), train)
        with timed(seconds, "embedding"):
            pair = _embedded(options, train, test, folder)
            scored = _scored(options, test)
        with bar(None, "similarity") as progress:
            compared = compare(
                pair,
                _arrangement_options(options),
                toward=np.flatnonzero(~scored),
                leaks=_leak_search(options, folder),
                search=search.with_progress(passes(progress)),
                seconds=seconds,
            )
            with timed(seconds, "arranging"):
                made = make(options.method, compared, options.seed)
                distance, meaning = example_distance(options.method, compared.comparison)
        with timed(seconds, "writing"):
            written = _write(options, pair, made, distance[made.chosen], folder.new)
            if compared.deduplicated:
                compared.deduplicated.write(folder.new)
            if options.report_split:
                _write_split(test, scored, folder.new)
        facts = _facts(options, pair, compared, made) | {"zsg_distance": meaning}
        if options.explain:
            with timed(seconds, "explaining"):
                _explain(options, pair, compared, made, facts, search, folder.new / PAGE)
        names = sorted({path.name for path in folder.new.iterdir()} | {*ARRAYS})
        provenance = {**facts, "files": names, "seconds": seconds}
        save_arrangement(made.arrangement, folder.new, provenance)
        folder.publish()
    if options.explain:
        say(f"explained: {folder.root / PAGE}")
    return folder.root / written.name


def _read_options(options: ArrangeOptions, folder: OutFolder) -> ReadOptions:
    return ReadOptions(
        folder.scratch,
        bad_rows=options.bad_rows,
        format=options.data_format,
        fields=parse_fields(options.data_fields),
        instructions=from_text(options.natural_instructions),
        answers=False,
        max_row_bytes=options.max_row_bytes,
    )


def _arrangement_options(options: ArrangeOptions) -> MethodOptions:
    return MethodOptions(
        (options.method,),
        seed=options.seed,
        budget=options.budget,
        distance=options.distance,
        w_min=options.w_min,
        w_avg=options.w_avg,
        deduplicate=options.deduplicate,
    )


def _leak_search(options: ArrangeOptions, folder: OutFolder) -> LeakSearch:
    near = options.leak_similarity
    return LeakSearch(
        folder.new,
        LeakageOptions(near_in(options.encoder) if near is None else near, options.leak_words),
        advice="they are left out" if options.drop_leaks else "pass --drop-leaks to leave them out",
        drop=options.drop_leaks,
    )


def _tell(options: ArrangeOptions, train: Dataset, test: Dataset) -> None:
    for dataset in (train, test):
        tell_skipped(dataset.skipped, dataset.skipped_count, f" of {dataset.path}")
    say(
        f"data: {count(len(train), 'training row')} of {count(len(train.tasks), 'task')}, "
        f"{count(len(test), 'test row')} of {count(len(test.tasks), 'task')}"
    )
    if train.tasks == [NO_TASK] and parse(options.method, options.seed)[0].by_task:
        say(
            f"{options.method} goes by task, but no training row has one: all count as one; give "
            'each row a "task"'
        )
    if options.budget is not None and options.budget > len(train):
        most = f"{len(train):,}"
        say(f"--budget {options.budget:,} is more than the {most} rows: all that may be chosen are")


def _embedded(
    options: ArrangeOptions, train: Dataset, test: Dataset, folder: OutFolder
) -> EmbeddedPair:
    if options.train_embeddings and options.test_embeddings:
        return open_pair(train, test, options.train_embeddings, options.test_embeddings)
    say(f"embedded: {_embedded_words(options, train, test)}")
    kept = at_home(options.embeddings) if options.embeddings else folder.embeddings
    with locked(kept, flag="--embeddings") if options.embeddings else nullcontext():
        embedded = Embedded(options.text, options.train_prompt, options.test_prompt)
        return embed_pair(
            train,
            test,
            options.encoder,
            kept,
            embedded=embedded,
            dtype=options.dtype,
            cache=options.cache,
        )


def _embedded_words(options: ArrangeOptions, train: Dataset, test: Dataset) -> str:
    if options.train_embeddings:
        return "as given"
    ours, theirs = (view_words(options.text, one) for one in (train, test))
    return f"of training rows {ours}; of test rows {theirs}"


def _scored(options: ArrangeOptions, test: Dataset) -> np.ndarray:
    """(T,) bool, test examples that nothing is arranged toward."""
    if not options.report_split:
        return np.zeros(len(test), bool)
    # By name, as a study's data.report_fraction draws them.
    tasks = np.unique(test.task_names, return_inverse=True)[1]
    scored = report_split(tasks, options.report_split, options.seed, set_index=test.set_index)
    say(f"test rows: {(~scored).sum():,} to arrange toward, {scored.sum():,} to score on")
    return scored


def _write(
    options: ArrangeOptions, pair: EmbeddedPair, made: Made, distance: np.ndarray, folder: Path
) -> Path:
    """Writes the arranged records and, for each, its id and its line in the file it came from.

    `distance` is (n,), of each record in order.
    """
    arrangement = made.arrangement

    records = partial(
        export.arranged, pair.train.raw, arrangement.order, arrangement.turn, distance
    )
    written = export.write(
        records, folder, options.format, total=len(arrangement), schema=pair.train.schema
    )
    write_bytes(folder / LINES, npy_bytes(pair.train.numbers[arrangement.order]))
    with replacing(folder / IDS) as partial_file, partial_file.open("wb") as file:
        for index in arrangement.order.tolist():
            file.write(f"{pair.train[index].id}\n".encode())
    return written


def _write_split(test: Dataset, scored: np.ndarray, folder: Path) -> None:
    for name, part in ((AIMED, ~scored), (SCORED, scored)):
        with replacing(folder / name) as partial, partial.open("wb") as file:
            for index in np.flatnonzero(part):
                file.write(test.raw(int(index)) + b"\n")


def _facts(
    options: ArrangeOptions, pair: EmbeddedPair, compared: Compared, made: Made
) -> dict[str, Any]:
    sides = {
        side: {
            "path": str(dataset.path),
            "format": dataset.schema,
            "rows": len(dataset),
            "digest": dataset.digest,
            "skipped": dataset.skipped_count,
            "without_answer": dataset.unanswered,
            **({} if options.train_embeddings else {"embedded": view_words(options.text, dataset)}),
        }
        for side, dataset in (("train", pair.train), ("test", pair.test))
    }
    aimed = len(compared.pair.test)
    assert compared.leakage is not None
    return {
        "method": options.method,
        "arguments": {**dataclasses.asdict(options), "output": str(options.output)},
        **pair.encoder_facts,
        **sides,
        "test_rows_aimed_at": aimed,
        "test_rows_scored_only": len(pair.test) - aimed,
        **made.facts,
        **(compared.deduplicated.facts if compared.deduplicated else {}),
        "rows_left_out_as_leaks": len(compared.dropped),
        "leakage": compared.leakage.summary(),
    }


def _explain(
    options: ArrangeOptions,
    pair: EmbeddedPair,
    compared: Compared,
    made: Made,
    facts: dict[str, Any],
    search: Search,
    page: Path,
) -> None:
    # Imported here: Matplotlib takes a second, and most runs draw nothing.
    from zsg_jax.report.explain import explain

    aimed = compared.pair.test
    shown = {
        "Method": options.method,
        "Training rows, read": f"{options.train}: {len(pair.train):,}",
        "Test rows, read": f"{options.test}: {len(pair.test):,}",
        "Arranged toward": f"{len(aimed):,} test rows",
        "Kept for scoring only": f"{len(pair.test) - len(aimed):,} test rows",
        "Budget": "all rows" if options.budget is None else f"{options.budget:,} rows",
        "Encoder": str(facts["encoder"]),
        "Embedded": _embedded_words(options, pair.train, pair.test),
        "Distance": options.distance,
        "Distance of a row (zsg_distance)": facts["zsg_distance"],
        "Left out as leaks": f"{facts['rows_left_out_as_leaks']:,} rows",
    }
    shown |= sets_facts(made.facts)
    if options.deduplicate is not None:
        shown["Left out as duplicates"] = f"{facts['rows_left_out_as_duplicates']:,} rows"
    with bar(None, "explanation") as progress:
        explain(
            page,
            made.arrangement,
            dataclasses.replace(pair, test=aimed, test_embeddings=compared.pair.test_embeddings),
            leakage=facts["leakage"],
            facts=shown,
            title=f"{options.method}: {Path(options.train).name} for {Path(options.test).name}",
            leaks_left_out=options.drop_leaks,
            search=search.with_progress(passes(progress)),
        )
