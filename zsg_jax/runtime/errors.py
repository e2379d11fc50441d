"""The one exception a user is meant to read."""

import difflib
import errno
from collections.abc import Collection

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # the disk, a file's limit, a user's share


class UserError(Exception):
    """A mistake in the user's input, told in one line: the thing, the value and the way out.

    `main` prints the message without a stack trace and exits with code 1. Raise it for what a
    user can mend (a file, a config value, a workdir), never for a defect of this program.

    Attributes:
        code: what the command ends with.
    """

    code = 1


class Unavailable(UserError):
    """Something outside, such as a bucket, that may be there again later.

    Attributes:
        code: what the command ends with, as `sysexits.h` has it: try again.
    """

    code = 75


def check(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)


def did_you_mean(name: str, names: Collection[str], cutoff: float = 0.6) -> str:
    """ "; did you mean NAME?" for the nearest of `names`, or nothing where none is near."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """What a library's error says first, or its kind where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_panic(error: BaseException) -> bool:
    """Whether a library written in Rust found a fault of its own; such an error is no Exception."""
    return type(error).__name__ == "PanicException"
