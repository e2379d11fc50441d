"""Writes rows in order as JSONL, Parquet, Arrow data set or ArrayRecord, without holding them."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from zsg_jax.runtime.errors import UserError, nearest
from zsg_jax.runtime.files import replacing
from zsg_jax.runtime.progress import track

# Each format's file, or folder.
FORMATS = {
    "jsonl": "arranged.jsonl",
    "parquet": "arranged.parquet",
    "arrow": "arranged",
    "arrayrecord": "arranged.array_record",
}


def check_format(format: str) -> None:
    """Checks that `write` can write a format.

    Raises:
        UserError: for an unknown format, or a library that is not installed.
    """
    if format not in FORMATS:
        raise UserError(
            f"format {format!r} is none of {', '.join(FORMATS)}{nearest(format, FORMATS)}"
        )
    if format == "arrow" and find_spec("datasets") is None:
        raise UserError("format 'arrow' needs datasets: pip install 'zsg_jax[export]'")


def write(
    rows: Callable[[], Iterable[bytes]],
    folder: Path,
    format: str,
    *,
    total: int,
    kind: str = "messages",
) -> Path:
    """Writes rows into `folder`; a kill leaves what was there before.

    Args:
        rows: called for each pass over the rows, which are JSON objects as UTF-8 without line
            breaks: one pass for jsonl, two for the others, whose columns need one type each.
        folder: made when missing.
        format: "jsonl" writes `arranged.jsonl`, the rows byte for byte; "parquet" writes
            `arranged.parquet`; "arrow" a folder `arranged` for `datasets.load_from_disk`;
            "arrayrecord" `arranged.array_record`, see `examples`.
        total: how many rows there are, for the progress bars.
        kind: what kind of rows they are, a name from `kinds.KINDS`; read for "arrayrecord".

    Returns:
        What was written: a file, or for "arrow" a folder.

    Raises:
        UserError: for an unknown format, a library that is not installed, rows that do not fit the
            format, and a folder that cannot be written to.
    """
    check_format(format)
    folder = Path(folder)
    try:
        return _write(rows, folder / FORMATS[format], format, total, kind)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _write(
    rows: Callable[[], Iterable[bytes]], path: Path, format: str, total: int, kind: str
) -> Path:
    # The libraries are asked for only by the formats that need them.
    if format == "parquet":
        from zsg_jax.data.export import tables

        return tables.write_parquet(rows, path, total)
    if format == "arrow":
        from zsg_jax.data.export import tables

        return tables.write_arrow(rows, path, total)
    if format == "arrayrecord":
        from zsg_jax.data.export import examples

        return examples.write_array_record(rows, path, total, kind)
    return _write_jsonl(rows, path, total)


def _write_jsonl(rows: Callable[[], Iterable[bytes]], path: Path, total: int) -> Path:
    with replacing(path) as partial, partial.open("wb") as file:
        for raw in track(rows(), f"writing {path.name}", total):
            file.write(raw + b"\n")
    return path
