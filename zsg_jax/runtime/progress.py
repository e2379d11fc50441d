"""Progress and one-line messages of process 0: bars on a terminal, elsewhere a line a minute."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeVar

from tqdm import tqdm

from zsg_jax.runtime.processes import is_first
from zsg_jax.runtime.streams import one_line

T = TypeVar("T")

EVERY = 60.0  # seconds without a line, after which who reads a log is told that work goes on
_last = (time.monotonic(), "the start")  # when the last line was said, and which
_always = False  # not only while a bar is open
_open: list[Callable[[], str]] = []  # what is at work, the innermost last


def say(message: str) -> None:
    """Prints one line to standard error, on process 0, without tearing a running bar.

    Where nobody reads what is said, as at a pipe that is gone, the work goes on all the same.
    """
    global _last
    _write(message)
    _last = time.monotonic(), message


def _write(message: str) -> None:
    if is_first():
        with suppress(OSError, ValueError):
            tqdm.write(one_line(message), file=sys.stderr)
            sys.stderr.flush()


def _on_terminal() -> bool:
    with suppress(ValueError):  # of one that is closed
        return sys.stderr.isatty()
    return False


def pulse() -> None:
    """From now on a minute without a line, as of compiling, is told outside of bars too."""
    global _always
    _always = True
    _begin_to_beat()


@cache
def _begin_to_beat() -> None:
    if not _on_terminal():
        threading.Thread(target=_beat, daemon=True).start()


def _beat() -> None:
    last, told = _last, 0.0
    while True:
        time.sleep(EVERY / 60)
        if _last is not last:
            last, told = _last, 0.0
        quiet = time.monotonic() - last[0]
        if quiet // EVERY <= told:  # of a machine that slept, once
            continue
        told = quiet // EVERY
        if shown := _open[-1:]:
            say(shown[0]())
        elif _always:
            _write(f"at work, {duration(quiet)} after: {last[1]}")


def count(number: int, noun: str) -> str:
    """ "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """ "12.5%"; of what is just above none, or beside a whole, the digits that tell it."""
    digits = 1
    while digits < 6 and share not in (0, 1) and float(f"{100 * share:.{digits}f}") in (0, 100):
        digits += 1
    return f"{share:.{digits}%}"


def duration(seconds: float) -> str:
    """ "50 s", "12 min", "3.5 h"; of what rounds to none "less than 1 s"."""
    if 0 < seconds < 0.5:
        return "less than 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Lines:
    """What a bar shows, told in each minute without another line: for who reads a log.

    Attributes:
        n, total: how many are done, and of how many; None where that is not known.
    """

    def __init__(self, total: int | None, description: str, unit: str, initial: int) -> None:
        self._description, self._unit = description, unit
        self.reset(total)
        self.n = self._first = initial

    def reset(self, total: int | None = None) -> None:
        """Begins anew, with another total."""
        self.n, self._first, self.total = 0, 0, total
        self._started = time.monotonic()

    def update(self, n: float = 1) -> None:
        """Counts `n` more."""
        self.n += int(n)

    def note(self, text: str) -> None:
        """Says what has just been found."""
        say(f"{self._description}: {text}")

    def told(self) -> str:
        """How far it is, how fast, and the time left."""
        a_second = (self.n - self._first) / max(time.monotonic() - self._started, 1e-9)
        of = f" of {self.total:,}" if self.total else ""
        left = ""
        if self.total and a_second and self.n < self.total:
            left = f", {duration((self.total - self.n) / a_second)} left"
        fast = f", {a_second:.3g} a second" if a_second else ""
        return f"{self._description}: {self.n:,}{of} {self._unit}s{fast}{left}"


class Bar(tqdm):
    """A bar on a terminal."""

    def note(self, text: str) -> None:
        """Shows what has just been found behind the bar."""
        self.set_postfix_str(text)


@contextmanager
def _at_work(told: Callable[[], str]) -> Iterator[None]:
    """Inside, `told` gives what is said of each minute without another line."""
    _open.append(told)
    _begin_to_beat()
    try:
        yield
    finally:
        _open.remove(told)


@contextmanager
def bar(
    total: int | None, description: str, unit: str = "row", initial: int = 0
) -> Iterator[Bar | Lines]:
    """A bar with the time left; a line a minute where standard error is no terminal."""
    if not _on_terminal():
        lines = Lines(total, description, unit, initial)
        with _at_work(lines.told):
            yield lines
        return
    with Bar(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        disable=not is_first(),
        leave=False,
        dynamic_ncols=True,
    ) as shown:
        yield shown


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows that work goes on of which nothing can be counted, as compiling."""
    began = time.monotonic()

    def told() -> str:
        return f"{what}, {duration(time.monotonic() - began)} so far"

    shown, form = _on_terminal() and is_first(), "{desc} {elapsed}"
    with (
        _at_work(told),
        tqdm(desc=f"{what} …", bar_format=form, disable=not shown, leave=False) as line,
    ):
        threading.Thread(target=_tick, args=(line,), daemon=True).start()
        yield


def _tick(line: "tqdm[Any]") -> None:
    while not line.disable:  # closed, it is
        line.refresh()
        time.sleep(1)


def passes(progress: Bar | Lines) -> Callable[[int, int], None]:
    """A callback for work in passes: takes how many rows are done, and how many a pass has."""

    def done(rows: int, of: int) -> None:
        if progress.total is None or progress.n >= progress.total:
            progress.reset(of)
        progress.update(rows)

    return done


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields `items`, drawing a bar while they pass."""
    with bar(total, description) as progress:
        for item in items:
            yield item
            progress.update()
