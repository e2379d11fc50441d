"""A run's numbers in a file for TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """An event file, written by the thread that calls; a `loggers.Backend`.

    tensorboardX's own writer hands events to a thread over a bounded queue: where that thread dies
    of a full disk, or waits for a clock that was put back, the caller waits for ever.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        """Begins a file in `folder`; from `purge_step` on, TensorBoard forgets what it has."""
        # Imported here: it imports PyTorch, where that is installed, which takes seconds.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        # Of a path that begins with "s3:" it would make an address.
        self._writer = EventsWriter(str(folder.absolute() / "events"))
        if purge_step is not None:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._event(step=purge_step, file_version="brain.Event:2")
            self._event(step=purge_step, session_log=start)

    def log(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        """Writes numbers by name."""
        from tensorboardX.summary import scalar

        for tag, number in numbers.items():
            self._event(step=step, summary=scalar(tag, number))

    def _event(self, **fields: Any) -> None:
        from tensorboardX.proto import event_pb2

        self._writer.write_event(event_pb2.Event(wall_time=time.time(), **fields))

    def flush(self) -> None:
        """Hands all numbers so far to the system."""
        self._writer.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()
