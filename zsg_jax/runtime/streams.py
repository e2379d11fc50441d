"""Standard streams that are closed, gone, or cannot spell a path, and an end while importing.

Called as the package is imported, before libraries open files of their own: where standard error
is closed, the next file that is opened would get its number, and what libraries write there.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import NoReturn

from zsg_jax.runtime.errors import UserError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_hidden: int | None = None  # where standard error leads while it is hushed
_hushing = 0  # how many are inside `hushed`, of all threads
_turning = threading.RLock()  # held while standard error is turned away or back, or written to


def settle() -> None:
    """Opens what is closed of the three streams to nowhere; of a command, sees to its manners."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115, to stay
    if _is_command():
        for name in ("stdout", "stderr"):
            reconfigure = getattr(getattr(sys, name), "reconfigure", None)
            if reconfigure is not None:
                # A path need not be UTF-8, and yet is to be told.
                reconfigure(errors="backslashreplace")
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end_at_interrupt)


def _is_command() -> bool:
    """Whether this process runs `python -m zsg_jax.COMMAND` or a script of the package."""
    words = sys.orig_argv[1:]
    module = next((after for word, after in pairwise(words) if word == "-m"), "")
    script = Path(sys.argv[0] if sys.argv else "").name
    return module.startswith("zsg_jax.") or script.startswith("zsg-")


def _end_at_interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C before a command has begun; raised into a library that is imported, it may crash."""
    del frame
    tell("zsg_jax: stopped; nothing was begun")
    os._exit(128 + number)


def begin() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt, as ever."""
    if signal.getsignal(signal.SIGINT) is _end_at_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def importing() -> Iterator[None]:
    """Inside, where a command imports what --help does not wait for, Ctrl-C ends it at once."""
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_interrupt)
    yield
    begin()


def one_line(text: str) -> str:
    """A text with control characters spelled out, as names may hold line breaks and colours."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def tell(line: str) -> None:
    """Writes a line to standard error, hushed or not, if anybody is there."""
    line = one_line(line)
    with _turning, suppress(OSError, ValueError):
        sys.stderr.flush()
        if _hidden is None:
            print(line, file=sys.stderr, flush=True)
        else:
            os.write(_hidden, f"{line}\n".encode(errors="backslashreplace"))


def end_now(code: int) -> NoReturn:
    """Ends this process without taking the interpreter apart.

    A device that still computes, or a compile, would crash on the way and hide the code.
    """
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def show(line: str) -> None:
    """Writes a line to standard output, if anybody is there: what it tells of is done by then.

    Raises:
        UserError: somebody is, but the line cannot be written, as on a full disk.
    """
    try:
        print(line, flush=True)
    except OSError as error:
        # What is left to be written at the end of the process goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise UserError(
                f"standard output: {error.strerror}; send it elsewhere (all else is done)"
            ) from None


def near(path: Path) -> str:
    """A path from the working folder, or, where that is gone, the path."""
    try:
        return os.path.relpath(path)
    except OSError:
        return str(path)


@contextmanager
def hushed() -> Iterator[None]:
    """Inside, what libraries write to standard error by themselves is dropped, such as a panic's.

    For short calls whose errors are told by who calls. Threads may be inside at the same time: the
    first turns standard error away, the last turns it back.
    """
    global _hidden, _hushing
    with _turning:
        if not _hushing:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            _hidden = os.dup(2)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)
        _hushing += 1
    try:
        yield
    finally:
        with _turning:
            _hushing -= 1
            if not _hushing and _hidden is not None:
                os.dup2(_hidden, 2)
                os.close(_hidden)
                _hidden = None
