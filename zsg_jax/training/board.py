"""A run's numbers for TensorBoard: beside the study, which goes on where they cannot be written."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zsg_jax.runtime.errors import first_line
from zsg_jax.runtime.progress import say


class Board:
    """An event file, written by the thread that calls.

    tensorboardX's own writer hands events to a thread over a bounded queue: where that thread dies
    of a full disk, or waits for a clock that was put back, the caller waits for ever.
    """

    def __init__(self, folder: Path, *, purge_step: int | None = None) -> None:
        """Begins a file in `folder`; from `purge_step` on, TensorBoard forgets what it has."""
        self._folder, self._writer = folder, None
        self._try(lambda: self._open(purge_step))

    def _open(self, purge_step: int | None) -> None:
        # Imported here: it imports PyTorch, where that is installed, which takes seconds.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._folder.mkdir(parents=True, exist_ok=True)
        # Of a path that begins with "s3:" it would make an address.
        self._writer = EventsWriter(str(self._folder.absolute() / "events"))
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._event(step=purge_step, file_version="brain.Event:2")
            self._event(step=purge_step, session_log=start)

    def write(self, record: Mapping[str, Any]) -> None:
        """Writes the numbers of a record as KIND/NAME, and those of an object as KIND/NAME/PART."""
        if self._writer is None:
            return
        numbers: dict[str, Any] = {}
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                numbers[f"{record['kind']}/{name}"] = value
            elif isinstance(value, dict):
                numbers |= {f"{record['kind']}/{name}/{part}": one for part, one in value.items()}
        self._try(lambda: self._scalars(record["step"], numbers))

    def _scalars(self, step: int, numbers: Mapping[str, Any]) -> None:
        from tensorboardX.summary import scalar

        for tag, number in numbers.items():
            self._event(step=step, summary=scalar(tag, number))

    def _event(self, **fields: Any) -> None:
        from tensorboardX.proto import event_pb2

        if self._writer is not None:
            self._writer.write_event(event_pb2.Event(wall_time=time.time(), **fields))

    def flush(self) -> None:
        """Hands all numbers so far to the system."""
        if self._writer is not None:
            self._try(self._writer.flush)

    def close(self) -> None:
        """Flushes and closes."""
        if self._writer is not None:
            self._try(self._writer.close)
            self._writer = None

    def _try(self, work: Callable[[], object]) -> None:
        """What goes wrong is told once; from then on nothing is written."""
        try:
            work()
        except Exception as error:  # whatever it is, the study does not need this file
            writer, self._writer = self._writer, None
            if writer is not None:
                with suppress(Exception):
                    writer.close()
            say(f"{self._folder}: left out from here on: {first_line(error)}; the study goes on")
