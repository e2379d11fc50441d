"""A workdir belongs to one config and one data set: what it holds, and who may go on with it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zsg_jax.durable import read_json, write_json
from zsg_jax.errors import UserError

CONFIG = "config.json"
DATA = "data.json"
LOCK = ".lock"
# Where the state lies and what the page is called change no experiment.
MAY_CHANGE = ("mesh.", "report.")


@contextmanager
def locked(workdir: Path, *, active: bool = True) -> Iterator[None]:
    """Keeps other processes out of `workdir`; a lock ends with its process, however that ends.

    Args:
        workdir: an existing folder.
        active: whether this process speaks for its study (process 0); else nothing is locked.

    Raises:
        UserError: if another process is at work there.
    """
    if not active:
        yield
        return
    with (workdir / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--workdir {workdir}: another process is at work there; wait for it, or give "
                "another --workdir"
            ) from None
        except OSError:
            # Some network and bucket file systems have no locks; there, care is the user's.
            pass
        yield


def claim(workdir: Path, config: dict[str, Any], *, write: bool) -> None:
    """Makes `workdir` this config's own, or checks that it already is.

    Args:
        workdir: made if it is not there.
        config: flat, as `config.flatten` gives it.
        write: whether this process may write (process 0).

    Raises:
        UserError: naming every key whose value differs, or saying that the folder is not ours.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: is a file; give a folder")
    known = read_json(workdir / CONFIG)
    if known is None:
        if workdir.is_dir() and any(workdir.iterdir()):
            raise UserError(
                f"--workdir {workdir}: holds files but no {CONFIG}; give an empty or a new folder"
            )
    else:
        different = [
            f"{key} is {known.get(key)!r} there, {config.get(key)!r} here"
            for key in sorted(known.keys() | config.keys())
            if known.get(key) != config.get(key) and not key.startswith(MAY_CHANGE)
        ]
        if different:
            raise UserError(
                f"--workdir {workdir}: belongs to another config ({'; '.join(different)}); "
                "give another --workdir, or the config it was made with"
            )
    if write:
        try:
            write_json(workdir / CONFIG, config)
        except OSError as error:
            raise UserError(f"--workdir {workdir}: cannot be written: {error.strerror}") from None


def claim_data(workdir: Path, facts: dict[str, Any], *, write: bool) -> None:
    """Records what the data were, or checks that they are still the same.

    Args:
        facts: counts and digests; "train_digest" and "test_digest" must not change.

    Raises:
        UserError: naming the side that has changed since.
    """
    known = read_json(workdir / DATA)
    if known is not None:
        for side in ("train", "test"):
            if known[f"{side}_digest"] != facts[f"{side}_digest"]:
                raise UserError(
                    f"--workdir {workdir}: the {side} instances have changed since it was made; "
                    "give another --workdir, or the data it was made with"
                )
    if write:
        write_json(workdir / DATA, facts)
