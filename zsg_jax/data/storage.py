"""The records of a source, each read again when it is asked for, while memory holds where it is."""

import os
import tempfile
import zlib
from array import array
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zsg_jax.data.formats.fields import rename
from zsg_jax.data.formats.jsonl import Record, Refused
from zsg_jax.data.formats.registry import LINES, TFDS, detect
from zsg_jax.data.formats.tfds import open_tfds
from zsg_jax.data.instance import Instance
from zsg_jax.data.schemas.read import parse
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import stamp_of


class Storage:
    """Records of one source, added one after another and then read by index, from 0.

    A plain .jsonl file, and the records of a TFDS data set, are read in place; they must stay as
    they are. Anything else is copied into a file without a name under `scratch`, which is gone when
    it is closed or the process is killed. A record takes 32 bytes of memory, four of them a
    checksum: a file that is edited in place can have its size and its time put back.
    """

    def __init__(self, path: Path, scratch: Path, fields: Mapping[str, str]) -> None:
        """Opens what the records will be read from.

        Args:
            path: the source.
            scratch: a folder for the copy; made when needed.
            fields: new names of fields and their old ones.

        Raises:
            UserError: if the source or `scratch` cannot be opened.
        """
        self._path, self._scratch, self._fields = path, scratch, fields
        self._starts, self._sizes, self._numbers = array("q"), array("q"), array("q")
        self._sums = array("I")
        # Of every file its first record; of every record its file.
        self._files: list[Record] = []
        self._file_of = array("i")
        self._file: BinaryIO
        format = detect(path)
        self._records = open_tfds(path) if format == TFDS else None
        if self._records is not None:
            return
        plain = format == LINES and path.is_file() and path.suffix != ".gz"
        self._in_place = plain and not fields
        try:
            if self._in_place:
                self._file = path.open("rb")
            else:
                scratch.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115, closed by `close`
        except OSError as error:
            where = path if self._in_place else scratch
            raise UserError(f"{where}: cannot be opened: {error.strerror or error}") from None
        self._stamp = stamp_of(os.fstat(self._file.fileno()))

    def add(self, record: Record) -> None:
        """Takes in the next record; raises UserError where the disk is full."""
        raw = record.raw.strip()
        if self._records is not None:
            start = record.number - 1
        elif self._in_place:
            start = record.offset + len(record.raw) - len(record.raw.lstrip())
        else:
            start = self._starts[-1] + self._sizes[-1] if self._starts else 0
            try:
                self._file.write(raw)
            except OSError as error:
                raise self._full(error) from None
        self._starts.append(start)
        self._sizes.append(len(raw))
        self._sums.append(zlib.crc32(raw))
        self._numbers.append(record.number)
        if not self._files or self._files[-1].path != record.path:
            self._files.append(record._replace(raw=b""))
        self._file_of.append(len(self._files) - 1)

    def seal(self, digest: str) -> None:
        """Ends the adding.

        Args:
            digest: what `instance.instances_digest` gives for all instances of the source; "":
                some were left out.

        Raises:
            UserError: if the source has changed, is not what it tells, or the disk is full.
        """
        if self._records is not None:
            if digest and not self._fields:
                self._records.check(digest)
            return
        if self._in_place:
            if stamp_of(self._path.stat()) != self._stamp:
                raise self._changed()
            return
        try:
            self._file.flush()
        except OSError as error:
            raise self._full(error) from None
        self._stamp = stamp_of(os.fstat(self._file.fileno()))

    @property
    def numbers(self) -> np.ndarray:
        """(N,) int64 line of each record, or its number in its array, table or task, from 1."""
        return np.frombuffer(self._numbers, np.int64)

    def raw(self, index: int) -> bytes:
        """The JSON object of a record; raises UserError if the source has changed."""
        start, size = self._starts[index], self._sizes[index]
        if self._records is not None:
            try:
                raw = self._records.raw(start)
                raw = rename(raw, self._fields) if self._fields else raw
            except Refused:
                raise self._changed() from None
        else:
            raw = os.pread(self._file.fileno(), size, start)
            if stamp_of(os.fstat(self._file.fileno())) != self._stamp:
                raise self._changed()
        if zlib.crc32(raw) != self._sums[index]:
            raise self._changed()
        return raw

    def instance(self, index: int, schema: str) -> Instance:
        """The instance of a record of a schema; raises as `raw` does."""
        name = self._files[self._file_of[index]].path.name
        try:
            return parse(self.raw(index), f"{name}:{self._numbers[index]}", schema)
        except Refused:
            raise self._changed() from None

    def location(self, index: int) -> str:
        """Where a record stands, for messages, as `Record.location`."""
        return self._files[self._file_of[index]]._replace(number=self._numbers[index]).location

    def close(self) -> None:
        """Closes the file; a copy is gone."""
        if self._records is not None:
            self._records.close()
            return
        # On a full disk the rest of a copy cannot be written: it is not needed either.
        with suppress(OSError):
            self._file.close()

    def _full(self, error: OSError) -> UserError:
        return UserError(
            f"{self._scratch}: cannot hold the rows of {self._path}: {error.strerror or error}"
        )

    def _changed(self) -> UserError:
        return UserError(
            f"{self._path}: changed while it was in use; leave it alone and start again"
        )
