"""Records of a split of a TFDS data set as JSON, in any order and without a copy."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.data.formats.jsonl import MAX_ROW_BYTES, Record, Refused, too_long
from zsg_jax.data.formats.tables import as_json
from zsg_jax.data.formats.tfds.address import find
from zsg_jax.data.formats.tfds.builders import Decode, open_builder
from zsg_jax.data.formats.tfds.example import from_record
from zsg_jax.data.formats.tfds.files import ArrayRecords, Part
from zsg_jax.data.formats.tfds.layout import (
    FEATURES,
    FORMAT,
    INFO,
    MANIFEST,
    MORE,
    TEMPLATE,
    features,
    shard_name,
)
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import file_digest, need_json, read_json
from zsg_jax.runtime.progress import track
from zsg_jax.runtime.shards import damage


class Known(NamedTuple):
    """What `prepare` tells of a split: its folder, the digest of all rows, and of each file."""

    folder: Path
    digest: str
    files: dict[str, str]


_UNKNOWN = Known(Path(), "", {})


class TfdsRecords:
    """The records of one split, by index from 0.

    Attributes:
        path: FOLDER:SPLIT, for messages; the same however the data set was named.
    """

    def __init__(
        self, path: Path, shards: ArrayRecords, decode: Decode, known: Known = _UNKNOWN
    ) -> None:
        self.path = path
        self._shards, self._decode, self._known = shards, decode, known

    def __len__(self) -> int:
        return len(self._shards)

    def raw(self, index: int) -> bytes:
        """A record as a JSON object.

        Raises:
            UserError: where a file is damaged or has changed.
            Refused: where it cannot be decoded.
        """
        return as_json(self._decode(self._shards[index]))

    def __iter__(self) -> Iterator[Record]:
        """All records in order, those refused with their reason; raises UserError as `raw` does."""
        return self.bounded(MAX_ROW_BYTES)

    def bounded(self, most: int) -> Iterator[Record]:
        """The same, refusing those that take more than `most` bytes."""
        told = f"reading {self.path.name}"
        for number, stored in enumerate(track(self._shards, told, len(self)), start=1):
            record = Record(self.path, number, b"", unit="row")
            try:
                if len(stored) > most:
                    raise Refused(too_long(most))
                yield record._replace(raw=as_json(self._decode(stored)))
            except Refused as refusal:
                yield record._replace(refusal=str(refusal))

    def check(self, digest: str) -> None:
        """Refuses what is not what `prepare` wrote, such as a file of another version.

        Args:
            digest: what `instance.instances_digest` gives for all records.

        Raises:
            UserError: with the first file that is another.
        """
        folder, told, files = self._known
        if told in ("", digest):
            return
        problem = damage(files, lambda name: file_digest(folder / name))
        raise UserError(
            f"{folder / MANIFEST}: tells of other rows than those of {self.path.name}"
            f"{f': {problem}' if problem else ''}; copy the folder again, or prepare it again"
        )

    def close(self) -> None:
        """Closes the files."""
        self._shards.close()


def open_tfds(path: Path) -> TfdsRecords:
    """Opens what `address.find` finds; what `prepare` wrote is decoded here.

    Raises:
        UserError: for a data set, version, split or file that is not there, for files that are no
            ArrayRecord.
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
    known = need_json(folder / FEATURES)
    ours = known in [features(one) for n in range(len(MORE) + 1) for one in combinations(MORE, n)]
    if ours and split in names:
        return TfdsRecords(
            Path(f"{folder}:{split}"),
            ArrayRecords(_parts(folder, info, listed[names.index(split)])),
            from_record,
            _known(folder, split),
        )
    check(
        split.partition("[")[0] in names or "+" in split or split == "all",
        f"{path}: has no split {split!r}; there are {', '.join(names)}",
    )
    parts, decode = open_builder(folder, split)
    return TfdsRecords(Path(f"{folder}:{split}"), ArrayRecords(parts), decode)


def tfds_records(path: Path, most: int = MAX_ROW_BYTES) -> Iterator[Record]:
    """The records of a source that `address.is_tfds` knows; raises as `open_tfds` does.

    A record of more than `most` bytes is refused.
    """
    records = open_tfds(path)
    try:
        yield from records.bounded(most)
    finally:
        records.close()


def _parts(folder: Path, info: dict[str, Any], split: dict[str, Any]) -> list[Part]:
    try:
        lengths = [int(length) for length in split["shardLengths"]]
        sound = split.get("filepathTemplate", TEMPLATE) == TEMPLATE and min(lengths) >= 0
    except (KeyError, TypeError, ValueError):
        lengths, sound = [], False
    check(sound, f"{folder / INFO}: its shards are not named; prepare the data set again")
    return [
        Part(
            folder / shard_name(str(info.get("name")), str(split["name"]), shard, len(lengths)),
            0,
            length,
            length,
        )
        for shard, length in enumerate(lengths)
    ]


def _known(folder: Path, split: str) -> Known:
    """What `manifest.json` tells of a whole split, where there is one that tells it."""
    try:
        told = (read_json(folder / MANIFEST) or {})["splits"][split]
        files = {str(one["file"]): str(one["digest"]) for one in told["shards"]}
        return Known(folder, str(told["instances_digest"]), files)
    except (KeyError, TypeError):
        return _UNKNOWN


def _with(path: Path, split: str) -> str:
    named, at, root = str(path).partition("@")
    return f"{named}:{split}{at}{root}"
