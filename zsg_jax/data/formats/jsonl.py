"""Rows of a source as bytes, one after another, each with the place it stands at."""

import gzip
import hashlib
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.progress import bar

GZIP = b"\x1f\x8b"  # how every gzip file begins
MARK = b"\xef\xbb\xbf"  # a byte order mark


class Row(NamedTuple):
    """One row that has not been looked into yet.

    Attributes:
        path: the file it stands in.
        number: its line, or its place among the rows or instances of the file, from 1.
        raw: the JSON object, perhaps with white space around it; empty where `refusal` tells why.
        offset: of lines, where `raw` begins in the unpacked file, in bytes.
        unit: what `number` counts, "line", "row" or "instance".
        refusal: why there is no row.
        cells: whether it is of a table, where null stands for what is missing.
    """

    path: Path
    number: int
    raw: bytes
    offset: int = 0
    unit: str = "line"
    refusal: str = ""
    cells: bool = False

    @property
    def place(self) -> str:
        """For messages: FILE:LINE, or FILE, instance NUMBER."""
        if self.unit == "line":
            return f"{self.path}:{self.number}"
        return f"{self.path}, {self.unit} {self.number}"


@contextmanager
def opened(path: Path, reached: Callable[[], str]) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Opens a file that may be gzip: its content, and how many stored bytes have been read.

    Args:
        path: read as gzip if its name ends in .gz.
        reached: tells the last sound place, as "line 3", or "" where nothing was read.

    Raises:
        UserError: for a missing, damaged or unreadable file.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a .jsonl or .jsonl.gz file")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    zipped = path.suffix == ".gz"
    try:
        with path.open("rb") as stored:
            if not zipped:
                yield stored, lambda: 0
                return
            with gzip.open(stored) as file:
                yield cast(BinaryIO, file), stored.tell
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        plain = ""
        if not reached() and isinstance(error, gzip.BadGzipFile):
            plain = "; if it is plain, take .gz from its name"
        where = reached() or "its beginning"
        raise UserError(f"{path}: damaged gzip after {where}: {error}{plain}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def refuse_unnamed_gzip(path: Path, start: bytes) -> None:
    """Raises UserError where a file begins as gzip does but is not read as such."""
    if start.startswith(GZIP):
        raise UserError(f"{path}: is gzip; give it a name that ends in .gz")


def lines(path: Path) -> Iterator[Row]:
    """The lines of a JSONL file, plain or gzip, that are not blank; a byte order mark is no text.

    Raises:
        UserError: for a missing, damaged or unreadable file.
    """
    number = offset = 0
    with (
        opened(path, lambda: f"line {number}") as (file, stored),
        bar(path.stat().st_size, f"reading {path.name}", "B") as progress,
    ):
        for number, raw in enumerate(file, start=1):
            size = len(raw)
            if number % 1000 == 0:
                progress.update((stored() or offset) - progress.n)
            if number == 1:
                refuse_unnamed_gzip(path, raw)
                raw = raw.removeprefix(MARK)
            if not raw.isspace() and raw:
                yield Row(path, number, raw, offset + size - len(raw))
            offset += size


class SeenIds:
    """The ids so far and where each stood: some 50 bytes an id, where a dict takes 200 and more.

    An id is kept as 128 bits of its BLAKE2 digest in a hash table with linear probing: that two
    of a million ids share them has a probability of about 1e-27.
    """

    def __init__(self) -> None:
        self._digests = bytearray()
        self._numbers = array("q")
        self._files = array("i")
        self._paths: list[Path] = []
        self._slots = array("i", [-1]) * 1024

    def add(self, identity: str, row: Row) -> tuple[Path, int] | None:
        """Remembers an id, or tells the path and number of the row that had it already."""
        digest = hashlib.blake2b(identity.encode(), digest_size=16).digest()
        slot, known = self._find(digest)
        if known >= 0:
            return self._paths[self._files[known]], self._numbers[known]
        if not self._paths or self._paths[-1] != row.path:
            self._paths.append(row.path)
        self._slots[slot] = len(self._numbers)
        self._digests += digest
        self._numbers.append(row.number)
        self._files.append(len(self._paths) - 1)
        if 2 * len(self._numbers) > len(self._slots):
            self._grow()
        return None

    def _find(self, digest: bytes) -> tuple[int, int]:
        """The slot of `digest` and the number it holds: -1 where the digest is new."""
        mask = len(self._slots) - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while (known := self._slots[slot]) >= 0:
            if self._digests[16 * known : 16 * known + 16] == digest:
                break
            slot = (slot + 1) & mask
        return slot, known

    def _grow(self) -> None:
        self._slots = array("i", [-1]) * (2 * len(self._slots))
        for known in range(len(self._numbers)):
            slot, _ = self._find(bytes(self._digests[16 * known : 16 * known + 16]))
            self._slots[slot] = known
