"""A run's metrics: JSON lines that survive a kill, and the same numbers for loggers."""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import write_bytes
from zsg_jax.training.loggers import TENSORBOARD_ALONE, Logging, open_loggers

FILE = "metrics.jsonl"
# Beside it, what was measured of its steps after they had been trained: the same records, of which
# each holds what was added; NOT_KEPT lists the metrics that could not be, no checkpoint being kept.
LATER = "later.jsonl"
NOT_KEPT = "not_kept"
# And what evaluators keep of every example: texts and their scores; what is scored without a text.
GENERATIONS, SCORES = "generations.jsonl", "scores.jsonl"
# Fields of a training record that tell of the machine, and so differ from run to run: the seconds
# since the record before (or since what came between: an evaluation, a checkpoint, a profile), in
# which the devices work; those of them that a step waited for its batch, until it was laid and on
# the devices, which may meanwhile be at work on the step before; and what `Speed` tells.
CLOCKS = ("seconds", "data_wait", "tokens_per_second", "mfu", "memory")


def read_run(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, its test records with what was measured of their steps later.

    Raises:
        UserError: as `read_records`.
    """
    later: dict[int, dict[str, Any]] = {}
    for one in read_records(folder, LATER):
        known = later.setdefault(one["step"], {NOT_KEPT: []})
        lost = known[NOT_KEPT] + one.get(NOT_KEPT, [])
        known |= one | {NOT_KEPT: lost}
    return [
        later.get(one["step"], {}) | one if one["kind"] == "test" else one
        for one in read_records(folder)
    ]


def read_records(folder: Path, name: str = FILE) -> list[dict[str, Any]]:
    """The records of a run; a last line cut short by a kill is left out.

    Args:
        name: `FILE`, or `LATER`.

    Raises:
        UserError: for a damaged line before the last.
    """
    path = folder / name
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        # Only a line that ends in a line break was written whole.
        if not line or number == len(lines):
            continue
        try:
            record = json.loads(line)
            whole = isinstance(record["step"], int) and record["kind"] in ("train", "test")
        except (ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            raise UserError(
                f"{path}:{number}: is damaged; delete the run's folder {folder} to run it again"
            )
        records.append(record)
    return records


def digest(path: Path, size: int | None = None) -> str | None:
    """SHA-256 of a file of records, or of its first `size` bytes; None where there is none."""
    if not path.exists():
        return None
    return hashlib.sha256(path.read_bytes()[:size]).hexdigest()


def data_wait(records: Iterable[Mapping[str, Any]]) -> float:
    """The share of the seconds of training records that was spent waiting for batches."""
    steps = [one for one in records if one["kind"] == "train"]
    waited = math.fsum(one.get("data_wait", 0.0) for one in steps)
    seconds = math.fsum(one.get("seconds", 0.0) for one in steps)
    return waited / seconds if seconds else 0.0


def over_time(records: Iterable[Mapping[str, Any]], name: str) -> float | None:
    """The mean of a rate such as "mfu" over the seconds of training records; None: it is in none.

    Each weighs as many seconds as it took.
    """
    rates = [
        (one["seconds"], one[name]) for one in records if one["kind"] == "train" and name in one
    ]
    seconds = math.fsum(took for took, _ in rates)
    return math.fsum(took * rate for took, rate in rates) / seconds if seconds else None


class MetricsLog:
    """Appends records to a run's metrics.jsonl and to its loggers; a no-op off process 0."""

    def __init__(
        self,
        folder: Path,
        *,
        after_step: int,
        active: bool = True,
        logging: Logging = TENSORBOARD_ALONE,
    ) -> None:
        """Opens the log, keeping records up to `after_step`; -1 keeps none.

        Records of later steps belong to steps that are about to be taken again.
        """
        self._file = None
        if not active:
            return
        kept = [one for one in read_records(folder) if one["step"] <= after_step]
        path = folder / FILE
        write_bytes(path, "".join(as_line(one) for one in kept).encode())
        self._file = path.open("a")
        self._loggers = open_loggers(logging, folder, after_step)

    def write(self, record: dict[str, Any]) -> None:
        """Writes one record; its numbers go to the loggers as KIND/NAME."""
        if self._file is None:
            return
        self._file.write(as_line(record))
        for logger in self._loggers:
            logger.write(record)

    def flush(self) -> None:
        """Makes all records written so far durable."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            for logger in self._loggers:
                logger.flush()

    def close(self) -> None:
        """Flushes and closes."""
        if self._file is not None:
            self.flush()
            self._file.close()
            for logger in self._loggers:
                logger.close()
            self._file = None


def as_line(record: Mapping[str, Any]) -> str:
    """A record as a line of metrics.jsonl."""
    return json.dumps(record, allow_nan=False) + "\n"
