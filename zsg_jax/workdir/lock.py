"""One process at a time is at work in a folder."""

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

from zsg_jax.runtime.buckets import is_address, spelled
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import remove
from zsg_jax.runtime.processes import owning
from zsg_jax.workdir.layout import CONFIG, LOCK


def refuse_address(folder: Path | str, flag: str = "--workdir") -> None:
    """Refuses gs://… and its kind, of which `Path` would make a local folder named `gs:`."""
    if is_address(folder):
        raise UserError(
            f"{flag} {spelled(folder)}: is no folder; mount the bucket (gcsfuse, rclone mount, "
            "s3fs) and give the folder where it is mounted"
        )


@contextmanager
def locked(workdir: Path, flag: str = "--workdir", *, passing: bool = False) -> Iterator[None]:
    """Keeps others out of `workdir`, making it if need be; a kill ends the lock too.

    Where there are no locks, or somebody has deleted the file, another process may go on with it
    while this one is stopped: this one then ends before it puts anything else in place. So it does
    where the folder has been moved or deleted.

    Args:
        workdir: the folder.
        flag: what the user gave it as.
        passing: whether the folder, made for the lock alone, goes at the end.

    Raises:
        UserError: if another process is at work there, or it cannot be written.
    """
    refuse_address(workdir, flag)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a+", errors="replace")
    except OSError as error:
        raise UserError(f"{flag} {workdir}: cannot be written: {error.strerror}") from None
    # As long as it is open, no other folder has its number.
    with file, ExitStack() as stack:
        opened = os.open(workdir, os.O_RDONLY)
        stack.callback(os.close, opened)
        held = _take(file, workdir, flag)
        claimed = False  # whether there has been a config

        def check_held() -> None:
            nonlocal claimed
            with suppress(OSError):
                there = (workdir / CONFIG).exists()
                try:
                    found = (workdir / LOCK).read_text(errors="replace")
                    claimed = claimed or there
                except FileNotFoundError:
                    check(
                        workdir.is_dir()
                        and os.path.samestat(workdir.stat(), os.fstat(opened))
                        and (there or not claimed),
                        f"{flag} {workdir}: has been moved or deleted while this process was at "
                        "work there; it ends here, and where the folder is now the same command "
                        "goes on",
                    )
                    return
                if found not in (held, ""):
                    raise UserError(
                        f"{flag} {workdir}: another process{_holder(found)} has gone on with it "
                        "since; this one ends, and leaves it alone"
                    )

        with owning(check_held):
            try:
                yield
            except (OSError, LookupError):
                # What is not found need not be told where nothing is.
                check_held()
                raise
            finally:
                if passing:
                    remove(workdir)


def _take(file: TextIO, workdir: Path, flag: str) -> str:
    """Locks an open file, if there are locks, and writes in it who holds it: what is returned."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"{flag} {workdir}: another process is at work there{_holder(file.read(200))}; "
            f"wait for it, end it if it stands still, or give another {flag}"
        ) from None
    except OSError:
        # Some network and bucket file systems have no locks; there, care is the user's.
        pass
    held = f" ({os.getpid()} on {socket.gethostname()})\n{uuid.uuid4().hex}\n"
    with suppress(OSError):  # a full disk is told where it matters
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), held.encode())
    return held


def _holder(content: str) -> str:
    """Who wrote a lock, in brackets."""
    return content.partition("\n")[0].rstrip()
