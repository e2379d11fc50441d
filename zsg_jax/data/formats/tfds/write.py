"""Writes the shards of a split one by one, each whole or not at all, and tells which are sound."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from array_record.python.array_record_module import ArrayRecordWriter

from zsg_jax.data.formats.tfds.example import to_record
from zsg_jax.data.formats.tfds.plan import SplitPlan
from zsg_jax.data.instance import Instance
from zsg_jax.data.instances import Instances
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import file_digest, read_json, replacing, write_json
from zsg_jax.runtime.progress import bar, say

# Beside every whole shard while a data set is written.
WRITTEN = ".written.json"
_OPTIONS = "group_size:1"  # every record alone, so that access by number is exact


class Shard(NamedTuple):
    """A written shard: its file, records, their bytes, and the SHA-256 of the file."""

    file: str
    rows: int
    bytes: int
    digest: str


def write_split(folder: Path, name: str, plan: SplitPlan, instances: Instances) -> list[Shard]:
    """Writes what is missing or damaged of a split's shards; whole ones stay.

    Args:
        folder: of the version.
        name: of the data set.
        plan: which rows go where.
        instances: the rows.
    """
    shards, kept = [], 0
    with bar(plan.rows, f"writing {plan.name}") as progress:
        for number in range(len(plan.starts)):
            path = folder / plan.shard_name(name, number)
            start, stop = plan.bounds(number)
            shard = _written(path, stop - start)
            kept += shard is not None
            if shard is None:
                rows = (instances[row] for row in range(start, stop))
                shard = _write(path, rows)
                write_json(_beside(path), shard._asdict())
            shards.append(shard)
            progress.update(stop - start)
    if kept:
        say(f"{plan.name}: {kept:,} of {len(shards):,} shards were there whole")
    return shards


def mend(
    folder: Path, name: str, plan: SplitPlan, instances: Instances, recorded: list[Shard]
) -> list[str]:
    """Writes anew the shards of a finished split that are not what its manifest says.

    Returns:
        The files that were written.

    Raises:
        UserError: if a shard comes out otherwise than it was recorded.
    """
    mended = []
    for number, known in enumerate(recorded):
        path = folder / known.file
        reason = damage(path, known.digest)
        if not reason:
            continue
        say(f"{path}: {reason}; it is written again")
        start, stop = plan.bounds(number)
        shard = _write(path, (instances[row] for row in range(start, stop)))
        if shard != known:
            raise UserError(
                f"{path}: comes out otherwise than when it was first written, perhaps with another "
                "version of array_record; give a new --version"
            )
        mended.append(known.file)
    return mended


def damage(path: Path, digest: str) -> str:
    """Why a file is not the one that has this SHA-256, or "" if it is."""
    try:
        return "" if file_digest(path) == digest else "is damaged: its digest is another"
    except FileNotFoundError:
        return "is missing"


def forget(folder: Path) -> None:
    """Takes the records of whole shards away, which a finished data set has in its manifest."""
    for path in folder.glob(f"*{WRITTEN}"):
        path.unlink()


def _written(path: Path, rows: int) -> Shard | None:
    """A shard that an earlier command wrote whole; one that is damaged since is told."""
    try:
        known: dict[str, Any] | None = read_json(_beside(path), Shard._fields)
    except UserError:
        known = None
    if known is None or known["rows"] != rows:
        return None
    if reason := damage(path, known["digest"]):
        say(f"{path}: {reason}; it is written again")
        return None
    return Shard(**{field: known[field] for field in Shard._fields})


def _write(path: Path, instances: Iterator[Instance]) -> Shard:
    rows = size = 0
    with replacing(path) as partial:
        writer = ArrayRecordWriter(str(partial), _OPTIONS)
        try:
            for instance in instances:
                record = to_record(instance)
                rows, size = rows + 1, size + len(record)
                _do(path, writer.write, record)
        finally:
            _do(path, writer.close)
        digest = file_digest(partial)
    return Shard(path.name, rows, size, digest)


def _do(path: Path, call: Any, *arguments: Any) -> None:
    """Calls the writer, which raises RuntimeError where a disk is full."""
    try:
        call(*arguments)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be written: {error}") from None


def _beside(path: Path) -> Path:
    return path.with_name(path.name + WRITTEN)
