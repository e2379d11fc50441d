"""What a path given as a source is, by its name and its first bytes, and the rows it holds."""

from collections.abc import Callable, Iterator
from pathlib import Path

from zsg_jax.data.formats import natural_instructions
from zsg_jax.data.formats.json_arrays import array_rows, begins_array
from zsg_jax.data.formats.jsonl import Row, lines
from zsg_jax.data.formats.tables import (
    HUB,
    INFO,
    SPLITS,
    STATE,
    arrow_rows,
    dataset_rows,
    hub_rows,
    parquet_rows,
)
from zsg_jax.data.formats.tfds import is_records, record_rows
from zsg_jax.runtime.errors import UserError

LINES, TASKS, RECORDS = "lines", "tasks", "records"
ReadTasks = Callable[[Path], Iterator[Row]]
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".arrow")
# Files of other programs that lie beside data and are none.
_NO_DATA = (STATE, INFO, "dataset_infos.json")
_READERS = {
    LINES: lines,
    "array": array_rows,
    "parquet": parquet_rows,
    "arrow": arrow_rows,
    "dataset": dataset_rows,
    "hub": lambda path: hub_rows(str(path)),
    RECORDS: record_rows,
}


def container(path: Path) -> str:
    """What holds the rows: a key of the readers above, or "folder".

    A .json file is an array if its first character is `[`, and else one object a line, as is
    whatever has another name.

    Raises:
        UserError: for a .json file that is missing, damaged or unreadable, and for a .csv file.
    """
    if str(path).startswith(HUB):
        return "hub"
    if is_records(path):
        return RECORDS
    if path.is_dir():
        saved = (path / SPLITS).exists() or ((path / STATE).exists() and (path / INFO).exists())
        return "dataset" if saved else "folder"
    name = path.name.removesuffix(".gz")
    if name.endswith(".json"):
        # A pipe can be read only once.
        return "array" if not path.is_fifo() and begins_array(path) else LINES
    if Path(name).suffix in (".csv", ".tsv"):
        raise UserError(f"{path}: tables of text are not read; write it as JSON lines or Parquet")
    if name != path.name:
        return LINES
    return {".txt": TASKS, ".parquet": "parquet", ".arrow": "arrow"}.get(path.suffix, LINES)


def rows(path: Path, read_tasks: ReadTasks = natural_instructions.rows) -> Iterator[Row]:
    """The rows of a source, those of a folder file by file.

    Args:
        path: the source.
        read_tasks: reads a list of Natural Instructions tasks.

    Raises:
        UserError: for what cannot be read, naming the file.
    """
    held = container(path)
    if held == TASKS:
        yield from read_tasks(path)
        return
    if held != "folder":
        yield from _READERS[held](path)
        return
    for file in files(path):
        yield from rows(file)


def files(folder: Path) -> list[Path]:
    """The files of a folder whose names tell that they hold rows, sorted by name.

    Raises:
        UserError: if there is none, or the folder cannot be read.
    """
    try:
        there = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from None
    found = [
        path
        for path in there
        if path.name.endswith(SUFFIXES)
        and path.name not in _NO_DATA
        and not path.name.startswith(".")
    ]
    if not found:
        raise UserError(
            f"{folder}: is a folder that holds no data set of datasets and none of "
            f"{', '.join('*' + suffix for suffix in SUFFIXES)}; give a file, or the folder of these"
        )
    return found
