"""Files that are there whole or not at all, whenever a process is killed."""

import ctypes
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.processes import check_owned

PARTIAL = ".partial"
OLD = ".old"
_BACK = "put it back, or make its folder again"


class Placing(Protocol):
    """What is told of each file that takes its place."""

    def __call__(self, path: Path, partial: Path) -> AbstractContextManager[None]:
        """Gives what is entered while `partial` takes the place of `path`."""


_placings: list[Placing] = []


@contextmanager
def recording(placing: Placing) -> Iterator[None]:
    """Inside, `placing` is told of every file that is written whole, beside others so told.

    Of files by any thread: those of one study, which has threads of its own, are not told from
    those of a study that runs in another thread.
    """
    _placings.append(placing)
    try:
        yield
    finally:
        _placings.remove(placing)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path to write a file or a folder to, which takes the place of `path` at the end.

    A kill or an error leaves the old one or the new one. (Of folders on a file system that cannot
    exchange two, the old one may lie beside its place, from where the next call takes it back.)

    Raises:
        UserError: a file would take the place of a folder, with all that lies in it; or as
            `check_owned`, before anything is made.
    """
    check_owned()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (path.with_name(path.name + end) for end in (PARTIAL, OLD + PARTIAL))
    if os.path.lexists(old) and not os.path.lexists(path):
        old.rename(path)
    for left in (partial, old):
        remove(left)
    try:
        yield partial
        for part in (partial, *partial.rglob("*")):
            sync(part)
        if path.is_dir() and not path.is_symlink() and not partial.is_dir():
            raise UserError(f"{path}: is a folder; give the name of a file")
        folders = any(one.is_dir() and not one.is_symlink() for one in (partial, path))
        if not (folders and os.path.lexists(path)):
            with ExitStack() as told:
                for placing in (*_placings,):
                    told.enter_context(placing(path, partial))
                partial.replace(path)
                # The rename itself lies in the folder, which has to reach the disk as well.
                sync(path.parent)
        elif not _exchange(partial, path):
            path.rename(old)
            partial.rename(path)
            remove(old)
    finally:
        remove(partial)
        sync(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Whether the system has given two paths each other's name, at once (Linux: renameat2)."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def move(source: Path, target: Path) -> None:
    """Gives a file or folder another name in the same folder, on disk when this returns."""
    source.rename(target)
    sync(target.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Puts `content` at `path`, on disk, so that a kill leaves the old file or the new one."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def remove(path: Path) -> None:
    """Deletes a file or a folder, if there is one; of a link, the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Deletes what killed writers left in a folder that several share, once it is a day old."""
    for left in folder.glob(f"*{PARTIAL}"):
        with suppress(OSError):  # another process may do so too
            if time.time() - left.stat().st_mtime > 86_400:
                remove(left)


def sync(path: Path) -> None:
    """Returns once a file or folder is on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def npy_bytes(values: np.ndarray) -> bytes:
    """What `numpy.save` writes, without pickle: to hash it, or to put it in place whole."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def load_npy(path: Path, *, mapped: bool = True) -> np.ndarray:
    """What `numpy.load` reads without pickle, mapped from the disk or in memory.

    Raises:
        OSError, EOFError, ValueError: it cannot be read, or is damaged.
    """
    try:
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (TokenError, SyntaxError) as error:  # of a header that no longer is Python
        raise ValueError(f"its header is damaged: {error}") from None


def json_bytes(content: Any) -> bytes:
    """`content` as indented JSON; NaN and infinities, which JSON lacks, raise ValueError."""
    return f"{json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)}\n".encode()


def write_json(path: Path, content: Any) -> None:
    """Writes `json_bytes` of `content`."""
    write_bytes(path, json_bytes(content))


def file_digest(path: Path) -> str:
    """SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def at_home(path: str | Path) -> Path:
    """A path whose ~ is the folder of the user that it names.

    Raises:
        UserError: there is none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: no folder is known that ~ stands for; give a whole path"
        ) from None


def stamp(path: Path) -> tuple[int, ...] | None:
    """What is another once a file has been written over or replaced; None: there is none."""
    try:
        return stamp_of(path.stat())
    except OSError:
        return None  # opening it tells what is wrong


def stamp_of(status: os.stat_result) -> tuple[int, ...]:
    """`stamp` of a file whose status is known."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def content_digest(path: Path) -> str:
    """`file_digest` of a file; of a folder SHA-256 over its files' names and digests; else ""."""
    if path.is_file():
        return file_digest(path)
    found = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else []
    digest = hashlib.sha256()
    for one in found:
        digest.update(f"{one.relative_to(path).as_posix()}\0{file_digest(one)}\n".encode())
    return digest.hexdigest() if found else ""


def read_json(path: Path, required: Collection[str] = ()) -> dict[str, Any] | None:
    """Reads a JSON object, or returns None where there is no file.

    Raises:
        UserError: if the file cannot be read, is no JSON object, or lacks a required key.
    """
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: is damaged: {error}; {_BACK}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is damaged: it holds no JSON object; {_BACK}")
    missing = [key for key in required if key not in content]
    if missing:
        raise UserError(f"{path}: is damaged: it holds no {', '.join(missing)}; {_BACK}")
    return content


def need_json(
    path: Path, required: Collection[str] = (), way_out: str | None = None
) -> dict[str, Any]:
    """`read_json` of a file that must be there; `way_out` says what to do where it is not.

    Raises:
        UserError: also if there is no such file.
    """
    content = read_json(path, required)
    if content is None:
        way_out = way_out or f"delete {path.parent} to make it again"
        raise UserError(f"{path}: is missing; {way_out}")
    return content
