"""What an evaluation's output folder holds: its request, what its records follow from, and these.

`evaluation.json` holds the flags, digests of the files that they name under `inputs`, and under
`read`, by subject, what its record follows from besides, with the number and the digest of its
records of examples in each file of these.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.evaluation.records import append, json_line, mended
from zsg_jax.runtime import appended
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import content_digest, need_json, read_json, write_bytes, write_json
from zsg_jax.runtime.settings import flag
from zsg_jax.training.finished import record_files
from zsg_jax.workdir import claims, layout
from zsg_jax.workflows.evaluate_options import EvaluateOptions

FILE = "evaluation.jsonl"
REQUEST = "evaluation.json"
# What the output folder may hold before the request is written there.
BEFORE = (layout.SCRATCH, layout.TOKENIZER, layout.HUB)
# Options that may be paths, of what records tell nothing of but the name.
_INPUTS = (
    *("test", "predictions", "adapters", "tokenizer", "template"),
    *("reward_model", "reward_template", "rouge_tokenizer"),
)
_READ = "read"  # in the request, by subject
_RECORDS = "records"  # beside what a subject's record follows from
CHECKPOINT, COPIED, WEIGHTS = "checkpoint_digest", "copied_digest", "weights_digest"
# What messages call what stands in `Subject.read`; settings are keys of a config.
_TOLD = (
    claims.DIGESTS
    | claims.MORE_DIGESTS
    | {
        CHECKPOINT: "the checkpoint",
        COPIED: "what the baseline copies",
        WEIGHTS: "its weights, or those it begins with, or their config.json",
    }
)
Record = dict[str, Any]


class Subject(NamedTuple):
    """What is evaluated.

    Attributes:
        facts: what its record says of it, which no other subject of the request has.
        read: what its record follows from besides: digests of what it is measured on and by, and
            settings that may be others in the same call of the command later.
        folder: for its records of examples.
        metrics: what is measured.
        measure: gives the fields of some of these, and takes the record of the others, if any.
    """

    facts: Record
    read: Record
    folder: Path
    metrics: Sequence[str]
    measure: Callable[[Sequence[str], Record], Record]

    @property
    def name(self) -> str:
        """What messages and the request call it."""
        curve = self.curve
        return f"{curve}, step {self.facts['step']}" if "run" in self.facts else curve

    @property
    def curve(self) -> str:
        """What all checkpoints of its run have in common, whose records are one curve."""
        return str(next(iter(self.facts.values())))


class Records:
    """The records of all subjects, one JSON object a line."""

    def __init__(self, path: Path) -> None:
        """Takes what the file holds, of which nothing is damaged."""
        self._path, self._done = path, mended(path)
        self._written = appended.Written(path)

    def of(self, subject: Subject) -> Record | None:
        """The record of a subject; None: it was not measured."""
        facts = subject.facts.items()
        return next((one for one in self._done if facts <= one.items()), None)

    def has(self, curve: str) -> bool:
        """Whether a subject of that curve was measured."""
        return any(next(iter(one.values())) == curve for one in self._done)

    def put(self, record: Record, known: Record | None) -> None:
        """Adds a record, or puts it in the place of the one that holds a part of it."""
        if known is None:
            append(self._path, self._written, [record])
            self._done.append(record)
            return
        self._done[self._done.index(known)] = record
        # A kill in between leaves one of both, of which nothing is told.
        appended.forget(self._path)
        write_bytes(self._path, b"".join(map(json_line, self._done)))
        self._written = appended.Written(self._path)
        self._written.tell(b"")


def claim(options: EvaluateOptions) -> None:
    """Makes the output folder this request's own, or checks that it already is.

    Raises:
        UserError: it is another's, or what a flag names has changed.
    """
    asked = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(options).items()
        if key not in ("output", "mesh")
    }
    given = {name: str(getattr(options, name) or "") for name in _INPUTS}
    inputs = {name: content_digest(Path(path)) for name, path in given.items() if path}
    known = read_json(options.output / REQUEST) or {}
    read = known.pop(_READ, {})
    begun = _begun(options.output, "**/*.jsonl")
    # Evaluations of earlier versions told no digests.
    were = known.pop("inputs", inputs)
    check(
        known == asked or not begun,
        f"--output {options.output}: holds another evaluation, whose flags are in {REQUEST}; give "
        "another folder, or the same flags to go on",
    )
    for name, found in inputs.items():
        check(
            not begun or found != "" or not Path(given[name]).exists(),
            f"{flag(name)} {given[name]}: is a pipe, and may hold something else than what "
            f"{options.output} was begun with; give another --output, or a file",
        )
        check(
            were.get(name) == found or not begun,
            f"{flag(name)} {given[name]}: has changed since {options.output} was begun; give "
            "another --output, or what it was begun with",
        )
    write_json(options.output / REQUEST, asked | {"inputs": inputs, _READ: read if begun else {}})


def claim_subject(output: Path, subject: Subject, records: Records) -> None:
    """Notes what a record follows from, or checks that what was measured follows from the same.

    That is the subject itself, the other checkpoints of its run, and records of examples of either
    that a kill has left.

    Raises:
        UserError: something has changed, or records of examples have.
    """
    request, record = need_json(output / REQUEST, (_READ,)), records.of(subject)
    own = request[_READ].get(subject.name, {})
    kept = own.get(_RECORDS, {}) if record is not None else {}
    found = _digests(subject)
    if records.has(subject.curve) or _begun(subject.folder, "*.jsonl"):
        # What earlier versions told nothing of binds nobody.
        were = {WEIGHTS: record[WEIGHTS]} if record is not None and WEIGHTS in record else {}
        for name, one in request[_READ].items():
            if name.startswith(f"{subject.curve}, step "):
                were |= {key: value for key, value in one.items() if key != CHECKPOINT}
        were |= own
        other = [key for key, now in subject.read.items() if were.get(key, now) != now]
        check(
            not other,
            f"{subject.name}: {' and '.join(_TOLD.get(key, key) for key in other)} changed since "
            f"it was measured into {output}; give another --output, or what it was measured with",
        )
    for name, written in kept.items():
        check(
            found.get(name) == written,
            f"{subject.folder / name}: is not what the record of {subject.name} follows from; put "
            "it back, or give another --output",
        )
    _note(output, request, subject, kept or (found if record is not None else {}))


def keep_digests(output: Path, subject: Subject) -> None:
    """Notes the records of examples that a subject's record, to be written now, follows from."""
    _note(output, need_json(output / REQUEST, (_READ,)), subject, _digests(subject))


def _note(output: Path, request: Record, subject: Subject, kept: Record) -> None:
    request[_READ][subject.name] = subject.read | ({_RECORDS: kept} if kept else {})
    write_json(output / REQUEST, request)


def _digests(subject: Subject) -> Record:
    """Of the subject's own lines in each file of records: how many, and their SHA-256."""
    step, found = subject.facts.get("step"), {}
    for path in record_files(subject.folder):
        # What follows the last end of a line was left by a kill.
        lines = path.read_bytes().split(b"\n")[:-1]
        own = [one for one in lines if step is None or _step(one) in (step, None)]
        found[path.name] = [len(own), hashlib.sha256(b"\n".join(own)).hexdigest()]
    return found


def _step(line: bytes) -> int | None:
    """The step of a record; None where it cannot be read, and may be anyone's."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None


def _begun(folder: Path, files: str) -> bool:
    return any(one.stat().st_size for one in folder.glob(files))
