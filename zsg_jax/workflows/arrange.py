"""Arranges a file of training rows toward a file of test rows and writes them in that order.

Rows are streamed: some tens of bytes are held for each of them, however long its text is. Only
optimal transport holds all embeddings.
"""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement, save_arrangement
from zsg_jax.arrangement.comparison import Comparison, Needs
from zsg_jax.arrangement.methods import arrange, caution, example_distance, made_with, needs, parse
from zsg_jax.data import export
from zsg_jax.data.dataset import Dataset, ReadOptions
from zsg_jax.data.formats.fields import parse_fields
from zsg_jax.data.formats.natural_instructions.options import from_text
from zsg_jax.data.schemas.read import FLAG_ADVICE, NO_TASK, tell_skipped
from zsg_jax.data.sources import open_source
from zsg_jax.leakage.find import Leakage, LeakageOptions, find_leaks
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import npy_bytes, replacing, write_bytes
from zsg_jax.runtime.progress import bar, count, passes, say
from zsg_jax.similarity.embeddings import SelectedEmbeddings
from zsg_jax.similarity.search.options import Search
from zsg_jax.workflows.arrange_inputs import Both, embedded
from zsg_jax.workflows.arrange_options import Request, check_request
from zsg_jax.workflows.arrange_output import AIMED, LINES, PAGE, SCORED, OutFolder, claimed

DROP = "pass --drop-leaks to leave them out"


def run(request: Request) -> Path:
    """Arranges what `request` names and writes the result into its `output` folder.

    The folder then holds order.npy, turn.npy, arrangement.json, leakage.jsonl and the arranged
    rows; explain.html, or test_aimed.jsonl and test_scored.jsonl, where asked for; and embeddings/,
    from which another arrangement of the same rows is made sooner.

    Returns:
        The path of the arranged rows.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    check_request(request)
    seconds: dict[str, float] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(claimed(request.output))
        with _timed(seconds, "reading"):
            train, test = (
                stack.enter_context(open_source(path, _read_options(request, folder), side))
                for side, path in (("train", request.train), ("test", request.test))
            )
            _tell(request, train, test)
        with _timed(seconds, "embedding"):
            inputs = embedded(request, train, test, folder)
        with bar(None, "similarity") as progress:
            with _timed(seconds, "similarity"):
                search = inputs.search.with_progress(passes(progress))
                whole = _comparison(request, inputs, None, search)
                largest = whole.cosines.maximum
            with _timed(seconds, "leakage"):
                leaks = _leaks(request, inputs, largest, folder)
            with _timed(seconds, "arranging"):
                arrangement, distance, facts = _arranged(request, inputs, whole, leaks, search)
        with _timed(seconds, "writing"):
            written = _write(request, inputs, arrangement, distance, folder.new)
        facts = {
            **_facts(request, inputs),
            **facts,
            "leakage": leaks.summary(),
        }
        if request.explain:
            with _timed(seconds, "explaining"):
                _explain(request, inputs, arrangement, facts, folder.new / PAGE)
        names = sorted(path.name for path in folder.new.iterdir())
        save_arrangement(arrangement, folder.new, {**facts, "files": names, "seconds": seconds})
        folder.publish()
    if request.explain:
        say(f"explained: {folder.root / PAGE}")
    return folder.root / written.name


def _read_options(request: Request, folder: OutFolder) -> ReadOptions:
    return ReadOptions(
        folder.scratch,
        bad_rows=request.bad_rows,
        advice=FLAG_ADVICE,
        format=request.data_format,
        flag="--data-format",
        fields=parse_fields(request.data_fields),
        instructions=from_text(request.natural_instructions),
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)


def _tell(request: Request, train: Dataset, test: Dataset) -> None:
    for dataset in (train, test):
        tell_skipped(dataset.skipped, dataset.skipped_count, f" of {dataset.path}")
    say(
        f"data: {count(len(train), 'training row')} of {count(len(train.tasks), 'task')}, "
        f"{count(len(test), 'test row')} of {count(len(test.tasks), 'task')}"
    )
    if train.tasks == [NO_TASK] and parse(request.method, request.seed)[0].by_task:
        say(
            f"{request.method} goes by task, but no training row has one: all count as one; give "
            'each row a "task"'
        )
    if request.budget is not None and request.budget > len(train):
        say(f"--budget {request.budget:,} is more than the {len(train):,} rows: all are taken")


def _leaks(request: Request, inputs: Both, largest: np.ndarray, folder: OutFolder) -> Leakage:
    with bar(None, "leakage") as progress:
        leaks = find_leaks(
            inputs.train,
            list(inputs.test),
            inputs.train_rows,
            inputs.test_rows,
            LeakageOptions(request.leak_similarity, request.leak_words),
            largest=largest,
            search=inputs.search.with_progress(passes(progress)),
            folder=folder.new,
        )
    say(leaks.sentence("they are left out" if request.drop_leaks else DROP))
    return leaks


def _comparison(
    request: Request,
    inputs: Both,
    pool: np.ndarray | None,
    search: Search,
) -> Comparison:
    """What methods need: of the training rows `pool` toward the test rows aimed at; None for all.

    Leaks are looked for in all rows of either side, so all are compared first. Where that is also
    what is arranged, the one pass gives the lists of TMTA too.
    """
    train_rows, test_rows, task = inputs.train_rows, inputs.test_rows, inputs.train.task_index
    first = pool is None
    if pool is not None and len(pool) < len(train_rows):
        train_rows, task = SelectedEmbeddings(train_rows, pool), task[pool]
    if pool is not None and inputs.scored.any():
        test_rows = SelectedEmbeddings(test_rows, np.flatnonzero(~inputs.scored))
    wanted = needs([request.method])
    if first and (inputs.scored.any() or request.drop_leaks):
        wanted = needs([])
    return Comparison(
        train_rows,
        test_rows,
        task,
        budget=request.budget,
        distance=request.distance,
        w_min=request.w_min,
        w_avg=request.w_avg,
        needs=wanted | Needs.STATISTICS,
        search=search,
    )


def _arranged(
    request: Request,
    inputs: Both,
    chosen: Comparison,
    leaks: Leakage,
    search: Search,
) -> tuple[Arrangement, np.ndarray, dict[str, Any]]:
    """The order, the distance of each of its rows, and how both were made.

    `chosen` compares all rows with all test rows, which serves where nothing is left out.
    """
    pool = np.arange(len(inputs.train))
    if request.drop_leaks:
        pool = np.flatnonzero(~leaks.leaking)
        check(len(pool) > 0, "--drop-leaks: every training row leaks; nothing is left to arrange")
    if len(pool) < len(inputs.train) or inputs.scored.any():
        chosen = _comparison(request, inputs, pool, search)
    part = arrange(request.method, chosen, request.seed)
    distance, meaning = example_distance(request.method, chosen)
    whole = Arrangement(pool[part.order], part.turn)
    sizes = whole.turn_sizes[whole.turn_sizes > 0]
    shown = ", ".join(f"{size:,}" for size in sizes[:10]) + (", …" if len(sizes) > 10 else "")
    say(f"{request.method}: {count(len(whole), 'row')} in {count(len(sizes), 'turn')} of {shown}")
    made = made_with(request.method, chosen)
    if odd := caution(made):
        say(odd)
    facts = {
        **made,
        "zsg_distance": meaning,
        "rows_left_out_as_leaks": len(inputs.train) - len(pool),
    }
    return whole, distance[part.order], facts


def _write(
    request: Request,
    inputs: Both,
    arrangement: Arrangement,
    distance: np.ndarray,
    folder: Path,
) -> Path:
    """Writes the arranged rows and their lines into `folder`, and a split's parts of test rows."""

    def rows() -> Iterator[bytes]:
        told = zip(arrangement.order, arrangement.turn, distance, strict=True)
        for row, turn, far in told:
            raw = inputs.train.raw(int(row))
            yield export.with_fields(raw, int(turn), float(far))

    schema = inputs.train.schema
    written = export.write(rows, folder, request.format, total=len(arrangement), schema=schema)
    write_bytes(folder / LINES, npy_bytes(inputs.train.numbers[arrangement.order]))
    if request.report_split:
        for name, part in ((AIMED, ~inputs.scored), (SCORED, inputs.scored)):
            with replacing(folder / name) as partial, partial.open("wb") as file:
                for row in np.flatnonzero(part):
                    file.write(inputs.test.raw(int(row)) + b"\n")
    return written


def _facts(request: Request, inputs: Both) -> dict[str, Any]:
    arguments = {**dataclasses.asdict(request), "output": str(request.output)}
    sides = {
        side: {
            "path": str(dataset.path),
            "format": dataset.schema,
            "rows": len(dataset),
            "digest": dataset.digest,
            "skipped": dataset.skipped_count,
        }
        for side, dataset in (("train", inputs.train), ("test", inputs.test))
    }
    return {
        "method": request.method,
        "arguments": arguments,
        **inputs.encoder,
        **sides,
        "test_rows_aimed_at": int((~inputs.scored).sum()),
        "test_rows_scored_only": int(inputs.scored.sum()),
    }


def _explain(
    request: Request,
    inputs: Both,
    arrangement: Arrangement,
    facts: dict[str, Any],
    page: Path,
) -> None:
    # Imported here: Matplotlib takes a second, and most runs draw nothing.
    from zsg_jax.report.explain import explain

    aimed = np.flatnonzero(~inputs.scored)
    told = {
        "Method": request.method,
        "Training rows": f"{request.train}: {len(inputs.train):,}",
        "Test rows": f"{request.test}: {len(inputs.test):,}",
        "Arranged toward": f"{len(aimed):,} test rows",
        "Kept for scoring only": f"{len(inputs.test) - len(aimed):,} test rows",
        "Budget": "all rows" if request.budget is None else f"{request.budget:,} rows",
        "Encoder": str(facts["encoder"]),
        "Distance": request.distance,
        "zsg_distance": facts["zsg_distance"],
        "Left out as leaks": f"{facts['rows_left_out_as_leaks']:,} rows",
    }
    with bar(None, "explanation") as progress:
        explain(
            page,
            arrangement=arrangement,
            train_rows=inputs.train_rows,
            test_rows=SelectedEmbeddings(inputs.test_rows, aimed),
            tasks=inputs.train.tasks,
            task=inputs.train.task_index,
            test_tasks=inputs.test.tasks,
            test_task=inputs.test.task_index[aimed],
            read_train=inputs.train.__getitem__,
            read_test=lambda row: inputs.test[int(aimed[row])],
            leakage=facts["leakage"],
            facts=told,
            title=f"{request.method}: {Path(request.train).name} for {Path(request.test).name}",
            search=inputs.search.with_progress(passes(progress)),
        )
