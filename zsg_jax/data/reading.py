"""One source: read once, every record checked, and opened as a dataset."""

import dataclasses
from array import array
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from zsg_jax.data.dataset import Dataset, Part
from zsg_jax.data.formats import natural_instructions
from zsg_jax.data.formats.fields import OldNames, refuse
from zsg_jax.data.formats.jsonl import MAX_ROW_BYTES
from zsg_jax.data.formats.registry import TASKS, detect
from zsg_jax.data.instance import InstancesDigest
from zsg_jax.data.schemas.read import BadRow, check_records, open_records
from zsg_jax.data.schemas.registry import AUTO
from zsg_jax.data.storage import Storage
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.progress import say

SKIPPED_KEPT = 1000


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How sources are read.

    Attributes:
        scratch: a folder for copies of what cannot be read in place; made when needed.
        bad_rows: "refuse" raises at the first bad record, "skip" leaves bad records out.
        format: the schema of the records, a name from `SCHEMAS`, or "auto", which tells it by
            the first of them and says it.
        fields: new names of fields and their old ones, as `fields.parse_fields` reads them.
        instructions, tokenizer: for lists of Natural Instructions tasks, as
            `natural_instructions.records` takes them.
        keep_all: whether ids, and all skipped records, stay in memory.
        answers: whether every record must hold an answer, to be learned or scored.
        max_row_bytes: bytes that a row may take as JSON.
        old_names: takes note of the old names of fields, of which one source may lack what another
            has; None: each must have all.
    """

    scratch: Path
    bad_rows: str = "refuse"
    format: str = AUTO
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    instructions: natural_instructions.Options = natural_instructions.WHOLE
    tokenizer: Tokenizer | None = None
    keep_all: bool = False
    answers: bool = True
    max_row_bytes: int = MAX_ROW_BYTES
    old_names: OldNames | None = None


def open_dataset(path: str | Path, options: ReadOptions, side: str = "train") -> Dataset:
    """Reads a source once, checks every record, and opens it.

    `id` (string or integer, default `FILE:LINE`) must be unique in the source; `task` defaults to
    "(no task)". `references`, a list of strings, holds further accepted answers; `choices`, or
    `answer_choices`, what the answer is chosen from. Turns come as the schema has them: an optional
    system turn, then user and assistant by turns, ending with the assistant. Other fields are left
    alone; blank lines are no records. Prompts alone, preferences and plain texts are read too,
    where `options.answers` asks for no answer.

    Args:
        path: JSON lines or a JSON array (.json), either as gzip if its name ends in .gz; .parquet,
            .arrow; the folder of a data set of `datasets`, or of files of these; a list of Natural
            Instructions tasks (.txt); "hub:OWNER/NAME[:SPLIT]"; "rewrites:KEY=VALUE,…", as
            `rewriting.address` reads it; or a data set of TFDS, by folder or name, as
            `tfds.address` reads it.
        options: how it is read.
        side: "train" or "test", as `natural_instructions.records` takes it.

    Raises:
        UserError: with file, line and reason; for a missing, unreadable or empty source, one that
            changes meanwhile, and a scratch folder that cannot hold the records.
    """
    path = Path(path)
    storage = Storage(path, options.scratch, options.fields)
    try:
        return _scan(path, storage, options, side)
    except BaseException:
        storage.close()
        raise


def _scan(path: Path, storage: Storage, options: ReadOptions, side: str) -> Dataset:
    read_tasks = partial(
        natural_instructions.records,
        options=options.instructions,
        side=side,
        tokenizer=options.tokenizer,
    )
    here = path.is_relative_to(options.scratch)  # rows that were in memory
    told, names = side if here else str(path), options.old_names
    note = refuse if names is None else partial(names.note, told)
    try:
        schema, found = open_records(
            path, options.format, read_tasks, options.fields, options.max_row_bytes, note
        )
    except UserError as error:
        if names is not None:
            error.args = ("; ".join((str(error), *names.refusals(told))),)
        raise
    if options.format == AUTO and detect(path) != TASKS:
        say(f"{told}: read as rows of {schema}")
    skipped: list[BadRow] = []
    skipped_count = 0

    def skip(record: BadRow) -> None:
        nonlocal skipped_count
        skipped_count += 1
        if options.keep_all or len(skipped) < SKIPPED_KEPT:
            skipped.append(record)

    tasks: dict[str, int] = {}
    no_answer = array("b")
    task_index, ids, digest = array("i"), list[str](), InstancesDigest()
    for record, instance in check_records(
        path, schema, found, bad_rows=options.bad_rows, on_skipped=skip, answers=options.answers
    ):
        no_answer.append(not instance.answered)
        storage.add(record)
        task_index.append(tasks.setdefault(instance.task, len(tasks)))
        digest.update(instance)
        if options.keep_all:
            ids.append(instance.id)
    storage.seal("" if skipped_count else digest.hexdigest())
    instance_of = partial(storage.instance, schema=schema)
    return Dataset(
        path,
        [
            Part(
                schema,
                storage.numbers,
                storage.raw,
                instance_of,
                storage.close,
                location=storage.location,
            )
        ],
        np.broadcast_to(np.int32(0), len(task_index)),
        np.arange(len(task_index)),
        list(tasks),
        np.frombuffer(task_index, np.int32),
        skipped,
        skipped_count,
        np.frombuffer(no_answer, bool),
        ids if options.keep_all else None,
        digest.hexdigest(),
    )
