"""Writes records in order as JSONL, Parquet, Arrow or ArrayRecord, a few in memory at a time."""

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from zsg_jax.runtime.errors import UserError, did_you_mean
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
            f"format {format!r} is none of {', '.join(FORMATS)}{did_you_mean(format, FORMATS)}"
        )
    if format == "arrow" and find_spec("datasets") is None:
        raise UserError("format 'arrow' needs datasets: pip install 'zsg_jax[export]'")


def write(
    records: Callable[[], Iterable[bytes]],
    folder: Path,
    format: str,
    *,
    total: int,
    schema: str = "messages",
) -> Path:
    """Writes records into `folder`; a kill leaves what was there before.

    Args:
        records: called for each pass over the records, which are JSON objects as UTF-8 without line
            breaks: one pass for jsonl, two for the others, whose columns need one type each.
        folder: made when missing.
        format: "jsonl" writes `arranged.jsonl`, the records byte for byte; "parquet" writes
            `arranged.parquet`; "arrow" a folder `arranged` for `datasets.load_from_disk`;
            "arrayrecord" `arranged.array_record`, see `examples`.
        total: how many records there are, for the progress bars.
        schema: of the records, a name from `SCHEMAS`; read for "arrayrecord".

    Returns:
        What was written: a file, or for "arrow" a folder.

    Raises:
        UserError: for an unknown format, a library that is not installed, records that do not fit
            the format, and a folder that cannot be written to.
    """
    check_format(format)
    path = Path(folder) / FORMATS[format]
    try:
        # What takes long to import is imported by the formats that need it.
        if format in ("parquet", "arrow"):
            from zsg_jax.data.export import tables

            write_table = tables.write_parquet if format == "parquet" else tables.write_arrow
            return write_table(records, path, total)
        if format == "arrayrecord":
            from zsg_jax.data.export import examples

            return examples.write_array_record(records, path, total, schema)
        return _write_jsonl(records, path, total)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _write_jsonl(records: Callable[[], Iterable[bytes]], path: Path, total: int) -> Path:
    with replacing(path) as partial, partial.open("wb") as file:
        for raw in track(records(), f"writing {path.name}", total):
            file.write(raw + b"\n")
    return path
