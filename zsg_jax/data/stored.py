"""Where a corpus finds its rows again: in the file itself, in an unpacked copy, or in records."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from zsg_jax.data.formats.fields import rename
from zsg_jax.data.formats.jsonl import Row
from zsg_jax.data.formats.tfds import open_records
from zsg_jax.data.schemas.checks import Refused
from zsg_jax.runtime.errors import UserError


class Changed(Exception):
    """What rows are read from is not what it was when they were taken in."""


class Stored(Protocol):
    """Rows that were taken in one after another, each to be read by the place it was given."""

    def take(self, row: Row) -> tuple[int, int]:
        """Where a row begins, and its size."""

    def seal(self) -> None:
        """All rows are taken in; raises Changed if their source did not hold still."""

    def read(self, start: int, size: int) -> bytes:
        """A row; raises Changed where it is no more."""

    def close(self) -> None:
        """Lets go of the file; what was unpacked is gone."""


class InPlace:
    """Rows of a plain file of JSON lines, which must stay as it is."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise UserError(f"{path}: cannot be opened: {error.strerror or error}") from None
        self._path = path
        self._stamp = _stamp(os.fstat(self._file.fileno()))

    def take(self, row: Row) -> tuple[int, int]:
        return row.offset + len(row.raw) - len(row.raw.lstrip()), len(row.raw.strip())

    def seal(self) -> None:
        if _stamp(self._path.stat()) != self._stamp:
            raise Changed

    def read(self, start: int, size: int) -> bytes:
        return _read(self._file, self._stamp, start, size)

    def close(self) -> None:
        self._file.close()


class Unpacked:
    """Rows copied into a file without a name, which is gone when it is closed or killed."""

    def __init__(self, path: Path, scratch: Path) -> None:
        self._path, self._scratch = path, scratch
        self._written = 0
        try:
            self._file = _unnamed_file(scratch)
        except OSError as error:
            raise UserError(f"{scratch}: cannot be opened: {error.strerror or error}") from None

    def take(self, row: Row) -> tuple[int, int]:
        raw = row.raw.strip()
        start = self._written
        try:
            self._written += self._file.write(raw)
        except OSError as error:
            raise self._full(error) from None
        return start, len(raw)

    def seal(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise self._full(error) from None
        self._stamp = _stamp(os.fstat(self._file.fileno()))

    def read(self, start: int, size: int) -> bytes:
        return _read(self._file, self._stamp, start, size)

    def close(self) -> None:
        # On a full disk the rest of what was unpacked cannot be written: it is not needed either.
        with suppress(OSError):
            self._file.close()

    def _full(self, error: OSError) -> UserError:
        return UserError(
            f"{self._scratch}: cannot hold the rows of {self._path}: {error.strerror or error}"
        )


class Recorded:
    """Rows of a TFDS data set, read from its shards as they are asked for."""

    def __init__(self, path: Path, fields: Mapping[str, str]) -> None:
        self._records = open_records(path)
        self._fields = fields

    def take(self, row: Row) -> tuple[int, int]:
        return row.number - 1, 0

    def seal(self) -> None:
        pass

    def read(self, start: int, size: int) -> bytes:
        try:
            raw = self._records.raw(start)
            return rename(raw, self._fields) if self._fields else raw
        except Refused:
            raise Changed from None

    def close(self) -> None:
        self._records.close()


def _unnamed_file(scratch: Path) -> BinaryIO:
    scratch.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=scratch)


def _read(file: BinaryIO, stamp: tuple[int, ...], start: int, size: int) -> bytes:
    raw = os.pread(file.fileno(), size, start)
    if len(raw) != size or _stamp(os.fstat(file.fileno())) != stamp:
        raise Changed
    return raw


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
