"""SIGTERM, SIGHUP and Ctrl-C: all processes save a checkpoint after the step at work, and end."""

import _thread
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

# Seconds until a main thread that has not ended is ended: at work on what a kill cannot harm; with
# the end deferred; saving for all. A second signal, other than one that comes with the first, as
# from `timeout`, ends it as well.
PATIENCE, LONGEST, SAVING = 2.0, 30.0, 300.0
# A scheduler's end, and that of the terminal or the connection that a study was started from.
_ENDS = (signal.SIGTERM, signal.SIGHUP)

_asked = False  # this process was told to stop
_agreed = False  # every process knows that one was
_deferring = False
_heard = int(signal.SIGTERM)  # what it was told by


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP has come, or Ctrl-C where it is deferred: for no handler of mistakes.

    Attributes:
        everywhere: whether all processes end here, with a checkpoint.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        """Says whether all processes end here."""
        super().__init__()
        self.everywhere = everywhere


def listen(
    end: Callable[[int], object] | None = None, heard: Callable[[], object] = lambda: None
) -> None:
    """From now on SIGTERM raises `Terminated`, at once or, where it is deferred, at a good place.

    So does SIGHUP, but under `nohup`; and Ctrl-C, where it is deferred and not only Python's own.
    For a command's main thread; a notebook keeps its own ways.

    Args:
        end: called in another thread, with the signal's number, where the main one has not ended
            by then: `PATIENCE` seconds later, as while it compiles; where the end is deferred
            `LONGEST` seconds later, or `SAVING` once all processes save; or at a second signal.
        heard: called in another thread, at once, where the end is deferred.
    """
    signal.signal(signal.SIGTERM, _hear)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _hear)
    # A shell's background job stays deaf to it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _hear)
    sys.unraisablehook = partial(_raise_again, sys.unraisablehook)
    if end is not None:
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(reader, end, heard), daemon=True).start()


def _raise_again(others: Callable[[Any], object], dropped: Any) -> None:
    """A signal that is heard in a callback of JAX's, which drops what is raised, is not lost."""
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        others(dropped)
        return
    number = signal.SIGINT
    if isinstance(dropped.exc_value, Terminated):
        number = signal.Signals(_heard)
        signal.signal(number, _hear)
    # Once this one is over, for what is raised in here is dropped as well.
    again = threading.Timer(0.05, _thread.interrupt_main, (number,))
    again.daemon = True
    again.start()


def _watch(reader: int, end: Callable[[int], object], heard: Callable[[], object]) -> None:
    """Python hears in its main thread alone, between instructions, some of which hide errors."""
    first: dict[int, float] = {}  # when a signal was heard first, by its number
    while True:
        ready = select.select([reader], [], [], 0.1 if first.keys() & _ENDS else None)[0]
        now = time.monotonic()
        for number in os.read(reader, 64) if ready else b"":
            if number not in (*_ENDS, signal.SIGINT):
                continue
            if not first and _deferring:
                heard()
            if now - first.setdefault(number, now) > 0.5:
                end(number)
        for number in first.keys() & _ENDS:
            if now - first[number] > _patience():
                end(number)


def _patience() -> float:
    if _agreed:
        return SAVING
    return LONGEST if _deferring else PATIENCE


def _hear(number: int, frame: FrameType | None) -> None:
    global _asked, _heard
    if number == signal.SIGINT and not _deferring:
        signal.default_int_handler(number, frame)
    _asked, _heard = True, number
    if not _deferring:
        # What is on disk is whole at any moment; the schedulers' second signal changes nothing.
        signal.signal(number, signal.SIG_IGN)
        raise Terminated


def asked() -> bool:
    """Whether this process was told to stop."""
    return _asked


def agree(stop: bool) -> None:
    """Notes whether every process knows that one was told to stop."""
    global _agreed
    _agreed = stop


def heard() -> int:
    """The number of the signal that ends this process."""
    return _heard


@contextmanager
def deferred() -> Iterator[None]:
    """Inside, all three wait for who asks a `ballot.Ballot`, or, at last, for the end."""
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False
    if _asked or _agreed:
        raise Terminated(everywhere=_agreed)
