"""Work of other people's code, such as a template or a regular expression, that may never end."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from zsg_jax.runtime.streams import tell

SECONDS = 60.0
_TICK = 0.5


@dataclass
class _Work:
    what: Callable[[], str]
    left: float  # seconds


_watching: threading.Thread | None = None
_at_work: _Work | None = None


@contextmanager
def bounded(what: Callable[[], str], seconds: float | None = None) -> Iterator[None]:
    """Inside, work that takes longer than it may ends this process, with a line that names it.

    No exception could end it, for it may be at work outside Python; it must leave Python's lock to
    other threads there. Only the main thread's work is bounded, and the outermost of it.

    Args:
        what: gives the line: the thing, what it was given, and the way out.
        seconds: of this process at work; one that is stopped, or whose machine sleeps, uses none.
            None: `SECONDS`.
    """
    global _watching, _at_work
    if _at_work is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    # A process that was forked has no thread of its parent's.
    if _watching is None or not _watching.is_alive():
        _watching = threading.Thread(target=_watch, daemon=True)
        _watching.start()
    _at_work = _Work(what, SECONDS if seconds is None else seconds)
    try:
        yield
    finally:
        _at_work = None


def _watch() -> None:
    while True:
        time.sleep(_TICK)
        work = _at_work
        if work is None:
            continue
        work.left -= _TICK
        if work.left < 0 and work is _at_work:
            tell(f"zsg_jax: {work.what()}")
            os._exit(1)
