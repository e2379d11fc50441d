"""Rows of a split of a TFDS data set, each as a JSON object, in any order and without a copy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zsg_jax.data.formats.jsonl import Row
from zsg_jax.data.formats.tables import as_json
from zsg_jax.data.formats.tfds.address import find
from zsg_jax.data.formats.tfds.builders import Decode, open_builder
from zsg_jax.data.formats.tfds.example import from_record
from zsg_jax.data.formats.tfds.layout import FEATURES, FORMAT, INFO, TEMPLATE, features, shard_name
from zsg_jax.data.formats.tfds.shards import Part, Shards
from zsg_jax.data.schemas.checks import Refused
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import need_json
from zsg_jax.runtime.progress import track


class Records:
    """The rows of one split, by number from 0.

    Attributes:
        path: FOLDER:SPLIT, for messages; the same however the data set was named.
    """

    def __init__(self, path: Path, shards: Shards, decode: Decode) -> None:
        self.path = path
        self._shards, self._decode = shards, decode

    def __len__(self) -> int:
        return len(self._shards)

    def raw(self, number: int) -> bytes:
        """A row as a JSON object.

        Raises:
            UserError: where a file is damaged or has changed.
            Refused: where the record holds no row.
        """
        return as_json(self._decode(self._shards[number]))

    def rows(self) -> Iterator[Row]:
        """All rows in order, those refused with their reason; raises UserError as `raw` does."""
        every = track(self._shards, f"reading {self.path.name}", len(self))
        for number, record in enumerate(every, start=1):
            row = Row(self.path, number, b"", unit="row", cells=True)
            try:
                yield row._replace(raw=as_json(self._decode(record)))
            except Refused as refusal:
                yield row._replace(refusal=str(refusal))

    def close(self) -> None:
        """Closes the files."""
        self._shards.close()


def open_records(path: Path) -> Records:
    """Opens what `address.find` finds; instances as `prepare` writes them need no TFDS.

    Raises:
        UserError: for a data set, version, split or file that is not there, for files that are no
            ArrayRecord, and where tensorflow_datasets is needed and not installed.
    """
    folder, split = find(path)
    info = need_json(folder / INFO, ("splits",), "prepare the data set again")
    listed = info["splits"]
    plain = isinstance(listed, list) and all(isinstance(one, dict) for one in listed)
    names = [str(one.get("name")) for one in listed] if plain else []
    check(bool(names), f"{folder / INFO}: names no split; prepare the data set again")
    kept = info.get("fileFormat", "tfrecord")
    check(
        kept == FORMAT,
        f"{folder}: holds {kept} files, which cannot be read in any order; prepare it again: tfds "
        "build NAME --file_format=array_record",
    )
    if not split:
        check(
            len(names) == 1,
            f"{path}: has the splits {', '.join(names)}; name one, as {_with(path, names[0])}",
        )
        split = names[0]
    ours = need_json(folder / FEATURES) == features()
    if ours and split in names:
        return Records(
            Path(f"{folder}:{split}"),
            Shards(_parts(folder, info, listed[names.index(split)])),
            from_record,
        )
    check(
        split.partition("[")[0] in names or "+" in split or split == "all",
        f"{path}: has no split {split!r}; there are {', '.join(names)}",
    )
    parts, decode = open_builder(folder, split)
    return Records(Path(f"{folder}:{split}"), Shards(parts), decode)


def record_rows(path: Path) -> Iterator[Row]:
    """The rows of a source that `address.is_records` knows; raises as `open_records` does."""
    records = open_records(path)
    try:
        yield from records.rows()
    finally:
        records.close()


def _parts(folder: Path, info: dict[str, Any], split: dict[str, Any]) -> list[Part]:
    try:
        lengths = [int(length) for length in split["shardLengths"]]
        sound = split.get("filepathTemplate", TEMPLATE) == TEMPLATE and min(lengths) >= 0
    except (KeyError, TypeError, ValueError):
        lengths, sound = [], False
    check(sound, f"{folder / INFO}: its shards cannot be told; prepare the data set again")
    return [
        Part(
            folder / shard_name(str(info.get("name")), str(split["name"]), shard, len(lengths)),
            0,
            length,
            length,
        )
        for shard, length in enumerate(lengths)
    ]


def _with(path: Path, split: str) -> str:
    named, at, root = str(path).partition("@")
    return f"{named}:{split}{at}{root}"
