"""Records of several ArrayRecord files as one sequence, read where they stand."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordReader

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import stamp_of

OPEN = 64  # files at most that are open at once
AT_ONCE = 256  # records read together where all are read
WAY_OUT = "prepare the data set again"


class Part(NamedTuple):
    """`take` records of a file that holds `length`, from record `skip`."""

    path: Path
    skip: int
    take: int
    length: int


class ArrayRecords:
    """The records of all parts, by number from 0.

    Raises:
        UserError: while records are read, for a file that is missing, damaged, of another length
            than its data set says, or changed since it was first looked at.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = [part for part in parts if part.take]
        self._ends = list(accumulate(part.take for part in self._parts))
        self._stamps = [_stamp(part.path) for part in self._parts]
        self._readers: dict[int, Any] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> bytes:
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        place = bisect_right(self._ends, number)
        part = self._parts[place]
        first = self._ends[place] - part.take
        own = part.skip + number - first
        return self._read(place, own, own + 1)[0]

    def __iter__(self) -> Iterator[bytes]:
        for place, part in enumerate(self._parts):
            stop = part.skip + part.take
            for start in range(part.skip, stop, AT_ONCE):
                yield from self._read(place, start, min(start + AT_ONCE, stop))

    def close(self) -> None:
        """Closes the files."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()

    def _read(self, place: int, start: int, stop: int) -> list[bytes]:
        part = self._parts[place]
        with self._lock:
            if _stamp(part.path) != self._stamps[place]:
                raise UserError(
                    f"{part.path}: changed while it was in use; leave it alone and start again"
                )
            try:
                reader = self._readers.pop(place, None) or _opened(part)
                # The file read last stands last.
                self._readers[place] = reader
                if len(self._readers) > OPEN:
                    self._readers.pop(next(iter(self._readers))).close()
                if stop - start > 1:
                    return reader.read(start, stop)
                # A list of one number takes the reader's pool of threads, and fifty times as long.
                reader.seek(start)
                return [reader.read()]
            except (RuntimeError, ValueError, IndexError) as error:
                # A reader that has failed once fails at sound records too.
                self._readers.pop(place, None)
                reason = f": {str(error).splitlines()[0]}" if str(error) else ""
                raise UserError(f"{part.path}: is damaged{reason}; {WAY_OUT}") from None


def _opened(part: Part) -> Any:
    # Reading ahead would read far more than the one record that is wanted.
    reader = ArrayRecordReader(str(part.path), "readahead_buffer_size:0,max_parallelism:0")
    held = reader.num_records()
    if held != part.length:
        reader.close()
        raise ValueError(f"it holds {held:,} records where {part.length:,} must be")
    return reader


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        return stamp_of(path.stat())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {WAY_OUT}") from None
