"""The formats that a source may have, and how its records are read.

A new format is a reader in a module of its own and a line in `FORMATS`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from zsg_jax.data.formats import natural_instructions, tables, tfds
from zsg_jax.data.formats.jsonl import (
    MAX_ROW_BYTES,
    Record,
    array_records,
    begins_array,
    lines,
    too_long,
)
from zsg_jax.data.rewriting import address
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.progress import say

ReadTasks = Callable[[Path], Iterator[Record]]
# Files of other programs that lie beside data and are none.
_NO_DATA = (tables.STATE, tables.INFO, "dataset_infos.json")
# One of several files: train-00000-of-00003.parquet.
_PART = re.compile(r"(.*?)(\d{1,7})-of-(\d{1,7})(?!\d)")
# What names of files call the splits.
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class Format(NamedTuple):
    """How a source may be stored.

    Attributes:
        applies: whether a source has this format, by its name or its first bytes.
        read: its records, in order, of which none takes much more memory than the bytes given.
        endings: of the names of the files of this format that are read in a folder.
    """

    applies: Callable[[Path], bool]
    read: Callable[[Path, int], Iterator[Record]]
    endings: tuple[str, ...] = ()


def _named(*endings: str) -> Callable[[Path], bool]:
    return lambda path: path.name.endswith(endings)


def _is_array(path: Path) -> bool:
    # A pipe can be read only once.
    return path.name.endswith((".json", ".json.gz")) and not path.is_fifo() and begins_array(path)


def _folder_records(folder: Path, most: int) -> Iterator[Record]:
    for file in files(folder):
        yield from records(file, most)


def _refuse_text_table(path: Path, most: int) -> Iterator[Record]:
    raise UserError(f"{path}: tables of text are not read; write it as JSON lines or Parquet")


def _refuse_array_record(path: Path, most: int) -> Iterator[Record]:
    raise UserError(
        f"{path}: ArrayRecord files are not read one by one; give the rows as JSON lines or "
        "Parquet, or a data set of python -m zsg_jax.prepare as DIR:SPLIT"
    )


LINES, TASKS, TFDS = "lines", "tasks", "tfds"
# The first that applies is the source's.
FORMATS = {
    "hub": Format(lambda path: str(path).startswith(tables.HUB), tables.hub_records),
    "rewriting": Format(address.is_address, lambda path, most: address.records(path)),
    TFDS: Format(tfds.is_tfds, tfds.tfds_records),
    "datasets": Format(tables.is_saved, tables.saved_records),
    "folder": Format(Path.is_dir, _folder_records),
    TASKS: Format(_named(".txt"), lambda path, most: natural_instructions.records(path)),
    "parquet": Format(_named(".parquet"), tables.parquet_records, (".parquet",)),
    "arrow": Format(_named(".arrow"), tables.arrow_records, (".arrow",)),
    "text table": Format(_named(".csv", ".tsv", ".csv.gz", ".tsv.gz"), _refuse_text_table),
    "array record": Format(_named(".array_record"), _refuse_array_record),
    "array": Format(_is_array, array_records),
    LINES: Format(lambda path: True, lines, (".jsonl", ".jsonl.gz", ".json", ".json.gz")),
}


def detect(path: Path) -> str:
    """The format of a source, a name from `FORMATS`.

    Raises:
        UserError: for a .json file that is missing, damaged or unreadable.
    """
    return next(name for name, format in FORMATS.items() if format.applies(path))


def records(path: Path, most: int = MAX_ROW_BYTES) -> Iterator[Record]:
    """The records of a source, those of a folder file by file.

    Args:
        path: the source.
        most: bytes that a row may take as JSON; what is longer is refused.

    Raises:
        UserError: for what cannot be read, naming the file.
    """
    for record in FORMATS[detect(path)].read(path, most):
        long = len(record.raw) > most
        yield record._replace(raw=b"", refusal=too_long(most)) if long else record


def files(folder: Path) -> list[Path]:
    """The files of a folder whose names tell that they hold records, sorted by name.

    Raises:
        UserError: if there is none, one is a link to nothing, one lies there packed too, or the
            folder cannot be read.
    """
    try:
        every = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror or error}") from None
    endings = tuple(ending for format in FORMATS.values() for ending in format.endings)
    named = [one for one in every if one.name.endswith(endings) and one.name not in _NO_DATA]
    found = [path for path in named if not path.is_dir()]
    for path in found:
        check(
            path.is_file(),
            f"{path}: is named as a file of rows, but is none, or a link to nothing; put it right, "
            "or take it out of the folder",
        )
    if not found:
        raise UserError(
            f"{folder}: is a folder that holds no data set of datasets and none of "
            f"{', '.join('*' + ending for ending in endings)}; give a file, or the folder of these"
        )
    _check_names(folder, found)
    _tell_missing(folder, found)
    _tell_names(folder, found, endings)
    others = [
        one.relative_to(folder).as_posix()
        for path in every
        if path not in found and path.name not in _NO_DATA
        for one in (sorted(path.rglob("*")) if path.is_dir() else [path])
        if not one.is_dir()
    ]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        say(f"{folder}: left out, by their names no files of rows: {', '.join(others[:5])}{more}")
    return found


def _check_names(folder: Path, found: Sequence[Path]) -> None:
    """Refuses files that are there twice."""
    names = [path.name for path in found]
    for name in names:
        check(
            f"{name}.gz" not in names,
            f"{folder}: holds {name} and, packed, {name}.gz, which would give every row twice; "
            "take one of them out",
        )


def _tell_missing(folder: Path, found: Sequence[Path]) -> None:
    """Says which files named NUMBER-of-COUNT are not there: some may be all that is meant."""
    parts: dict[tuple[str, str], set[int]] = {}
    for named in filter(None, (_PART.match(path.name) for path in found)):
        parts.setdefault((named[1], named[3]), set()).add(int(named[2]))
    for (name, total), there in parts.items():
        # Some count from 1.
        numbers = count(0 if 0 in there or int(total) not in there else 1)
        missing = [n for n in islice(numbers, int(total)) if n not in there]
        if missing:
            first = f"{name}{missing[0]:0{len(total)}}-of-{total}"
            say(
                f"{folder}: of {int(total):,} files that belong together {len(missing):,} are not "
                f"there, the first {first}: their rows are missing"
            )


def _tell_names(folder: Path, found: Sequence[Path], endings: tuple[str, ...]) -> None:
    """Says where files of several splits, or of one name, are read together."""
    stems: dict[str, list[str]] = {}
    splits = set()
    for name in (path.name for path in found):
        ending = max((one for one in endings if name.endswith(one)), key=len)
        stem = name.removesuffix(ending)
        stems.setdefault(stem, []).append(name)
        told = {_SPLITS[word] for word in re.findall("[a-z]+", stem.lower()) if word in _SPLITS}
        splits |= told if len(told) == 1 else set()
    for same in stems.values():
        if len(same) > 1:
            say(f"{folder}: reads {' and '.join(same)}; if they hold the same rows, take one out")
    if len(splits) > 1:
        say(
            f"{folder}: reads files of the splits {', '.join(sorted(splits))} as one set; for the "
            "rows of one give its file, or a folder of its files alone"
        )
