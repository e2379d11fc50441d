"""The one place where errors of other people's code become a line with the way out."""

import errno
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from zsg_jax.runtime.errors import FULL, UserError, first_line, is_panic

P = ParamSpec("P")
T = TypeVar("T")
PathT = TypeVar("PathT")

_GO_ON = "mend it, then the same command goes on where it stopped"
_FILES = re.compile(r"Too many open files|EMFILE|ENFILE")
_FULL = re.compile(r"no space left|file too large|disk quota exceeded|ENOSPC|EFBIG|EDQUOT", re.I)
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")  # NumPy's, which hides why
_BACKEND = re.compile(r"unable to initialize backend|unknown backend|no visible .* devices", re.I)
_MEMORY = re.compile(r"RESOURCE_EXHAUSTED|out of memory", re.I)


def told(error: BaseException) -> str | None:
    """The line that tells of an error whose cause is outside this program; None: it is not.

    Whatever raised an error, what it was raised from is looked at first.
    """
    lines = (_told(one) for one in _roots(error))
    return next((line for line in lines if line is not None), None)


def short_of_files(error: BaseException) -> str | None:
    """The line that tells of files that cannot be opened since too many are; None: another error.

    Whoever opens a file takes the error for one of the file, which may be whole.
    """
    lines = (_limited(one) for one in _roots(error))
    return next((line for line in lines if line is not None), None)


def limit() -> str | None:
    """The line that tells of a limit beyond which a library ends the process without an error."""
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return None
    return (
        f"the address space is limited to {most / 2**30:.1f} GiB (ulimit -v): where that is too "
        "little, XLA aborts the process; ulimit -v unlimited takes the limit away"
    )


def _roots(error: BaseException) -> list[BaseException]:
    """What an error was raised from, the first one first, and itself."""
    chain = [error]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) and deeper not in chain:
        chain.append(deeper)
    return chain[::-1]


def _limited(error: BaseException) -> str | None:
    limited = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    if not limited and not _FILES.search(str(error)):
        return None
    what = error.filename if isinstance(error, OSError) else None
    return (
        f"{_spelled(what or first_line(error))}: cannot be opened: too many open files; raise the "
        "limit (ulimit -n 4096), then the same command goes on where it stopped"
    )


def _told(error: BaseException) -> str | None:
    said = first_line(error)
    if limited := _limited(error):
        return limited
    if isinstance(error, OSError) and (error.filename is not None or error.errno in FULL):
        # A full disk, a folder that may not be written: the user's to mend.
        return f"{_spelled(error.filename or 'disk')}: {error.strerror}; {_GO_ON}"
    if full := _FULL.search(str(error)):
        return f"disk: {full[0]}; {_GO_ON}"
    if cut := _CUT_SHORT.search(str(error)):
        return f"disk: no space left, as it seems ({cut[0]}); {_GO_ON}"
    if _BACKEND.search(str(error)):
        asked = os.environ.get("JAX_PLATFORMS")
        way_out = f"JAX_PLATFORMS={asked} names what is not here: unset it, or install that"
        return f"{said}; {way_out if asked else 'see that the device is free and installed'}"
    if isinstance(error, MemoryError) or _MEMORY.search(str(error)):
        return f"memory is used up: {said}; use smaller batches or a machine with more of it"
    if isinstance(error, UnicodeError) and "surrogates not allowed" in str(error):
        return f"a path is not UTF-8 ({said}); give it another name"
    if is_panic(error):
        return f"a library has failed: {said}; see the file that it was given"
    return None


def _spelled(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)


@contextmanager
def reading(path: Path | str, way_out: str = "fetch the file again") -> Iterator[None]:
    """Inside, whatever goes wrong with a file of other people's is a line that names it.

    Raises:
        UserError: that line; one that is raised inside stays as it is.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        kind = "" if is_panic(error) else f"{type(error).__name__}: "
        raise UserError(
            f"{path}: cannot be read as what it should be: {kind}{first_line(error)[:300]}; "
            f"{way_out}"
        ) from None


def reads(function: Callable[Concatenate[PathT, P], T]) -> Callable[Concatenate[PathT, P], T]:
    """`reading`, for all that a function does with the files of its first argument."""

    @wraps(function)
    def read(path: PathT, /, *given: P.args, **named: P.kwargs) -> T:
        with reading(str(path)):
            return function(path, *given, **named)

    return read
