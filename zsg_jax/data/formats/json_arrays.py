"""Rows of a JSON array, `[{…}, {…}, …]`, found one after another without reading the whole of it.

Only brackets, commas and strings are looked at: what stands between two commas of the outer array
is a row, whether it is sound or not, so that a broken row is told by its own number.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from zsg_jax.data.formats.jsonl import MARK, Row, opened, refuse_unnamed_gzip
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import bar

CHUNK = 1 << 20
MOST = 1 << 28  # bytes of a row

# A string, whole or begun, or a character that counts; possessive, so that time stays linear.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[][{},"]', re.DOTALL)
# A line break between the parts of a row; one in a string stays, for JSON does not allow it.
_BREAK = re.compile(rb'("(?:[^"\\]++|\\.)*+")|\s*[\r\n]\s*', re.DOTALL)
_OPEN, _CLOSE = (b"[", b"{"), (b"]", b"}")


def begins_array(path: Path) -> bool:
    """Whether the first character of a file is `[`; told apart from JSON lines by it.

    Raises:
        UserError: for a missing, damaged or unreadable file, and for one object over many lines.
    """
    with opened(path, lambda: "") as (file, _):
        refuse_unnamed_gzip(path, file.peek(2))  # type: ignore[attr-defined]
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


def array_rows(path: Path) -> Iterator[Row]:
    """The elements of the array that a file holds, plain or gzip, each on one line.

    Raises:
        UserError: for a missing, damaged or unreadable file, and an array that is cut off, goes on
            for 256 MB without an end of a row, or has something behind it.
    """
    number = read = 0
    with (
        opened(path, lambda: f"row {number}") as (file, stored),
        bar(path.stat().st_size, f"reading {path.name}", "B") as progress,
    ):
        for number, raw in enumerate(_elements(file.read, path), start=1):
            read += len(raw)
            if number % 1000 == 0:
                progress.update(max((stored() or read) - progress.n, 0))
            if b"\n" in raw or b"\r" in raw:
                raw = _BREAK.sub(lambda found: found[1] or b" ", raw)
            yield Row(path, number, raw, unit="row")


def _elements(read: Callable[[int], bytes], path: Path) -> Iterator[bytes]:
    """What stands between the commas of the outer array."""
    buffer, depth, found, at = b"", 0, 0, 0
    start: int | None = None
    while chunk := read(max(CHUNK, len(buffer))):
        buffer += chunk
        while token := _TOKEN.search(buffer, at):
            mark = token[0]
            if mark == b'"':
                break  # the string goes on in what has not been read yet
            at = token.end()
            if mark in _OPEN:
                depth += 1
                if depth == 1:
                    start = at
            elif depth == 1 and mark in (b",", b"]"):
                row = buffer[start : token.start()].strip()
                # An empty array, or the place behind its last comma, which JSON does not allow.
                if row or mark == b"," or found:
                    found += 1
                    yield row
                start = at
                if mark == b"]":
                    _check_rest(buffer[at:], read, path)
                    return
            elif mark in _CLOSE and depth > 1:
                depth -= 1
        # What is left of the buffer is the row that goes on, and where to go on with it.
        if not token:
            at = len(buffer)
        elif mark == b'"':
            at = token.start()
        done = start or 0
        buffer, at, start = buffer[done:], at - done, None if start is None else 0
        check(
            len(buffer) <= MOST,
            f"{path}, row {found + 1}: goes on for more than {MOST >> 20} MB; a bracket or a "
            "quotation mark in it is not closed",
        )
    raise UserError(
        f"{path}, row {found + 1}: the file ends in it: it was cut off, or a bracket or a "
        "quotation mark of this row is not closed"
    )


def _check_rest(rest: bytes, read: Callable[[int], bytes], path: Path) -> None:
    while rest or (rest := read(CHUNK)):
        check(
            not rest.strip(),
            f"{path}: something follows the array's closing bracket; give one array of objects, "
            "or one object a line",
        )
        rest = b""
