"""JSON lines and JSON arrays: the records of a file as bytes, each with where it stands."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import bar

# A row is held whole, several times over while it is read.
MAX_ROW_BYTES = 256 << 20
# How files begin that hold no rows as they are, and what to do with them.
_BEGINNINGS = {
    b"\x1f\x8b": "is gzip; give it a name that ends in .gz",
    b"BZh": "is bzip2; unpack it (bunzip2), or pack it with gzip",
    b"\xfd7zXZ\x00": "is xz; unpack it (unxz), or pack it with gzip",
    b"\x28\xb5\x2f\xfd": "is Zstandard; unpack it (unzstd), or pack it with gzip",
    b"PK\x03\x04": "is a zip archive; unpack it, and give the file or folder that was in it",
    b"PAR1": "is Parquet; give it a name that ends in .parquet",
    b"ARROW1": "is Arrow or Feather; give it a name that ends in .arrow, or save it as Parquet",
    b"FEA1": "is Feather; save it as Parquet",
    b"\xff\xfe": "is UTF-16; make it UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "is UTF-16; make it UTF-8 (iconv -f UTF-16 -t UTF-8)",
}
MARK = b"\xef\xbb\xbf"  # a byte order mark

# Finds where a value ends; numbers are only copied, as the longest cannot be converted.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = re.compile(r"[ \t\r\n]*")
# JSON has none inside a string.
_LINE_BREAK = re.compile(r"[ \t]*[\r\n]\s*")


class Refused(Exception):
    """Why one record is no instance."""


class Record(NamedTuple):
    """A JSON object of a source, not parsed yet.

    Attributes:
        path: the file it stands in.
        number: its line, or its number among the rows or instances of the file, from 1.
        raw: the JSON object, perhaps with white space around it; empty where `refusal` tells why.
        offset: of lines, where `raw` begins in the unpacked file, in bytes.
        unit: what `number` counts, "line", "row" or "instance".
        refusal: why there is no JSON object.
    """

    path: Path
    number: int
    raw: bytes
    offset: int = 0
    unit: str = "line"
    refusal: str = ""

    @property
    def location(self) -> str:
        """For messages: FILE:LINE, or FILE, instance NUMBER."""
        if self.unit == "line":
            return f"{self.path}:{self.number}"
        return f"{self.path}, {self.unit} {self.number}"


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object that `raw` holds; raises Refused if it holds none."""
    try:
        parsed = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise Refused(f"is not UTF-8 (byte {error.start} of the row)") from None
    except json.JSONDecodeError as error:
        raise Refused(f"is not JSON: {error.msg} (column {error.colno})") from None
    except (RecursionError, ValueError) as error:
        raise Refused(f"is not JSON that can be read: {error}") from None
    if not isinstance(parsed, dict):
        raise Refused(f"is a JSON {json_type(parsed)}, not an object")
    return parsed


def json_file(path: Path, way_out: str, **options: Any) -> Any:
    """The value of a JSON file that is read whole; `options` are those of `json.loads`.

    Raises:
        UserError: for a file that is missing, unreadable or no JSON, with the way out.
    """
    try:
        return json.loads(path.read_bytes(), **options)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; {way_out}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not JSON: {error}; {way_out}") from None


def json_type(value: Any) -> str:
    """What JSON calls the type of a value."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON's escapes can spell half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(record: Record) -> dict[str, Any] | None:
    """The fields of a record; None where there is no JSON object."""
    try:
        return None if record.refusal else json_object(record.raw)
    except Refused:
        return None


@contextmanager
def opened(path: Path, reached: Callable[[], str]) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Opens a file that may be gzip: its content, and how many stored bytes have been read.

    Args:
        path: read as gzip if its name ends in .gz.
        reached: the last sound record, as "line 3", or "" before the first.

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


def refuse_packed(path: Path, start: bytes) -> None:
    """Raises UserError where a file begins as one does that must be unpacked or named otherwise."""
    for beginning, what in _BEGINNINGS.items():
        if start.startswith(beginning):
            raise UserError(f"{path}: {what}")


def _bounded_lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    number = 0
    while raw := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(raw) > MAX_ROW_BYTES:
            raise UserError(
                f"{path}:{number}: is longer than {MAX_ROW_BYTES >> 20} MB, which no row is meant "
                "to be; see that the file holds one JSON object a line"
            )
        yield raw


def lines(path: Path) -> Iterator[Record]:
    """The lines of a file, plain or gzip, that are not blank, without a byte order mark.

    Raises:
        UserError: for a missing, damaged or unreadable file.
    """
    number = offset = 0
    with (
        opened(path, lambda: f"line {number}" if number else "") as (file, stored),
        bar(path.stat().st_size, f"reading {path.name}", "B") as progress,
    ):
        for number, raw in enumerate(_bounded_lines(file, path), start=1):
            size = len(raw)
            if number % 1000 == 0:
                progress.update((stored() or offset) - progress.n)
            if number == 1:
                refuse_packed(path, raw)
                raw = raw.removeprefix(MARK)
            if not raw.isspace() and raw:
                yield Record(path, number, raw, offset + size - len(raw))
            offset += size


def begins_array(path: Path) -> bool:
    """Whether the first character of a .json file is `[`.

    Raises:
        UserError: for a missing, damaged or unreadable file, and for one object over many lines.
    """
    with opened(path, lambda: "") as (file, _):
        refuse_packed(path, file.peek(8))  # type: ignore[attr-defined]
        while chunk := file.read(4096):
            start = chunk.removeprefix(MARK).lstrip()
            if start:
                check(
                    start.split(b"\n")[0].strip() != b"{",
                    f"{path}: holds one object over several lines; give an array of objects, "
                    "`[{…}, {…}]`, or one object a line; of Natural Instructions give the list "
                    "that names the tasks, splits/NAME/train_tasks.txt",
                )
                return start.startswith(b"[")
    return False


def array_records(path: Path) -> Iterator[Record]:
    """The elements of the JSON array in a file, each on one line; the file is read whole.

    Raises:
        UserError: for a missing, damaged or unreadable file, for an element that is not JSON, by
            its number, and for anything behind the array.
    """
    with opened(path, lambda: "") as (file, _):
        # Bytes that are not UTF-8 are refused with the record that holds them.
        text = file.read().removeprefix(MARK).decode(errors="surrogateescape")
    at = _skip_space(text, text.index("[") + 1)
    closed, number = text.startswith("]", at), 0
    while not closed:
        number += 1
        try:
            _, end = _DECODER.raw_decode(text, at)
            after = _skip_space(text, end)
            if not text.startswith((",", "]"), after):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, after)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{path}, row {number}: is not JSON: {error}") from None
        raw = _LINE_BREAK.sub(" ", text[at:end]).encode(errors="surrogateescape")
        yield Record(path, number, raw, unit="row")
        closed = text[after] == "]"
        at = after if closed else _skip_space(text, after + 1)
    check(
        not text[at + 1 :].strip(),
        f"{path}: something follows the array's closing bracket; give one array of objects, or one "
        "object a line",
    )


def _skip_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]
