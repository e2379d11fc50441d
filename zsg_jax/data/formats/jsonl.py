"""JSON lines and JSON arrays: the records of a file as bytes, each with where it stands."""

import codecs
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
from zsg_jax.runtime.settings import setting

# A row is held whole, several times over while it is read.
MAX_ROW_BYTES = 256 << 20
_PIECE = 1 << 20  # bytes that are read at a time where nothing tells how many are needed
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

# Finds where a value ends; numbers are not looked at, as the longest cannot be converted.
_DECODER = json.JSONDecoder(parse_int=bool, parse_float=bool)
_SPACE = re.compile(r"[ \t\r\n]*")
# JSON has none inside a string.
_LINE_BREAK = re.compile(r"[ \t]*[\r\n]\s*")


class Refused(Exception):
    """Why one record is no instance."""


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members; of a name that comes twice every reader keeps one, each as it likes."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refused(f'names "{twice}" twice in one object; leave one of them')
    return members


_OBJECT = json.JSONDecoder(object_pairs_hook=named_once)


def too_long(most: int) -> str:
    """Why a row whose JSON takes more than `most` bytes is refused."""
    return (
        f"is longer than {most:,} bytes, which no row is meant to be; see that rows are apart, or "
        f"raise {setting('data.max_row_bytes')}"
    )


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
        parsed = _OBJECT.decode(raw.decode().rstrip())
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
    except Refused as error:
        raise UserError(f"{path}: {error}") from None
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


def lines(path: Path, most: int = MAX_ROW_BYTES) -> Iterator[Record]:
    """The lines of a file, plain or gzip, that are not blank, without a byte order mark.

    A line of more than `most` bytes is refused, and never held.

    Raises:
        UserError: for a missing, damaged or unreadable file.
    """
    number = offset = 0
    with (
        opened(path, lambda: f"line {number}" if number else "") as (file, stored),
        bar(path.stat().st_size, f"reading {path.name}", "B") as progress,
    ):
        while raw := file.readline(most + 1):
            number, size = number + 1, len(raw)
            if number % 1000 == 0:
                progress.update((stored() or offset) - progress.n)
            if number == 1:
                refuse_packed(path, raw)
                raw = raw.removeprefix(MARK)
            if size > most:
                yield Record(path, number, b"", offset, refusal=too_long(most))
                while not raw.endswith(b"\n") and (raw := file.readline(_PIECE)):
                    size += len(raw)
            elif not raw.isspace() and raw:
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


def array_records(path: Path, most: int = MAX_ROW_BYTES) -> Iterator[Record]:
    """The elements of the JSON array in a file, each on one line.

    Raises:
        UserError: for a missing, damaged or unreadable file, for an element that is not JSON or
            takes more than `most` bytes, by its number, and for anything behind the array.
    """
    number = 0
    with opened(path, lambda: f"row {number}" if number else "") as (file, _):
        text = _Text(file, most)
        text.after_space()
        text.at += 1
        closed = text.after_space() == "]"
        text.at += closed
        while not closed:
            number += 1
            try:
                text.after_space()
                raw = _LINE_BREAK.sub(" ", text.value()).encode(errors="surrogateescape")
                after = text.after_space()
                if after not in (",", "]"):
                    raise json.JSONDecodeError("Expecting ',' or ']'", text.held, text.at)
            except json.JSONDecodeError as error:
                where = f"line {text.lines + error.lineno}"
                raise UserError(
                    f"{path}, row {number}: is not JSON: {error.msg} ({where})"
                ) from None
            except (Refused, RecursionError) as error:
                why = error if isinstance(error, Refused) else f"is not JSON: {error}"
                raise UserError(f"{path}, row {number}: {why}") from None
            yield Record(path, number, raw, unit="row")
            closed = after == "]"
            text.at += 1
        check(
            not text.after_space(),
            f"{path}: something follows the array's closing bracket; give one array of objects, or "
            "one object a line",
        )


class _Text:
    """The text of a file, of which no more is held than the value that is read.

    Attributes:
        held, at: what is held, and how far of that is read. Bytes that are not UTF-8 stand in it as
            surrogates, and are refused with the record that holds them.
        lines: line breaks before `held`.
    """

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most, self._whole = file, most, False
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self.held, self.at, self.lines = "", 0, 0
        self._more()
        self.held = self.held.removeprefix(MARK.decode())

    def _more(self) -> None:
        """Reads on, so that a value is looked at again only where twice as much of it is there."""
        self.lines += self.held.count("\n", 0, self.at)
        self.held, self.at = self.held[self.at :], 0
        content = self._file.read(max(_PIECE, len(self.held)))
        self._whole = not content
        self.held += self._decode(content, self._whole)

    def after_space(self) -> str:
        """Goes on to the next character that is no white space; "" at the end."""
        while True:
            self.at = _SPACE.match(self.held, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.held) or self._whole:
                return self.held[self.at : self.at + 1]
            self._more()

    def value(self) -> str:
        """Goes on behind the value that begins here, and gives it.

        Raises:
            json.JSONDecodeError, RecursionError: it is none.
            Refused: it is too long.
        """
        while True:
            try:
                _, end = _DECODER.raw_decode(self.held, self.at)
                # A number may go on.
                whole = self._whole or end < len(self.held)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self.held) - 16
                if self._whole or not cut_off:
                    raise
                end, whole = len(self.held), False
            found = self.held[self.at : end]
            if len(found) > self._most:
                raise Refused(too_long(self._most))
            if whole:
                self.at = end
                return found
            self._more()
