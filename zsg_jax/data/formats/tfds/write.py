"""Plans which instances go into which shard of a split, and writes the shards."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.data.dataset import Dataset
from zsg_jax.data.export.examples import record_writer
from zsg_jax.data.formats.tfds.example import to_record
from zsg_jax.data.formats.tfds.layout import MORE, shard_name
from zsg_jax.data.instance import TOOLS, Instance, InstancesDigest, texts_digest
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import file_digest, replacing
from zsg_jax.runtime.progress import bar, say, track
from zsg_jax.runtime.shards import Shards, damage

MEGABYTE = 1_000_000


class Shard(NamedTuple):
    """A written shard: its file, records, their bytes, and the SHA-256 of the file."""

    file: str
    rows: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class SplitPlan:
    """One split of a data set; it decides every byte.

    Attributes:
        name: "train" or "test".
        instances: of the split.
        digest: what `instance.instances_digest` gives for them.
        tasks: how many instances each task has, sorted by its name.
        starts: the first instance of each shard; shards differ by one at most.
        more: those of `layout.MORE` that an instance has.
        categories: digest of them all, "" where there are none.
    """

    name: str
    instances: Dataset
    digest: str
    tasks: dict[str, int]
    starts: tuple[int, ...]
    more: tuple[str, ...] = ()
    categories: str = ""

    def of_shard(self, shard: int) -> Iterable[Instance]:
        """The instances of a shard."""
        ends = (*self.starts[1:], len(self.instances))
        return (self.instances[index] for index in range(self.starts[shard], ends[shard]))

    def facts(self) -> dict[str, Any]:
        """What tells two plans apart, JSON-ready."""
        return {
            "rows": len(self.instances),
            "instances_digest": self.digest,
            "tasks": self.tasks,
            "starts": list(self.starts),
            **({"categories_digest": self.categories} if self.categories else {}),
        }


def plan_split(
    name: str, instances: Dataset, shard_bytes: float, shard_rows: int | None
) -> SplitPlan:
    """Plans a split, reading all of its instances once.

    Args:
        name: of the split.
        instances: of the split.
        shard_bytes: text of a shard at most, as UTF-8, give or take an instance's.
        shard_rows: instances of a shard at most; it goes before `shard_bytes`.

    Raises:
        UserError: if there is no instance, or would be more shards than their names can count.
    """
    total = len(instances)
    check(total > 0, f"--{name}: no row is left")
    digest, size, more, categories = _look_over(track(instances, f"checking {name}", total))
    # The quotient of a tiny number may be infinite.
    parts = total / shard_rows if shard_rows else min(total, size / shard_bytes)
    shards = min(max(math.ceil(parts), 1), total)
    check(
        shards < 100_000,
        f"--{name}: would be {shards:,} shards; give a larger --shard-mb or --shard-rows",
    )
    counts = np.bincount(instances.task_index, minlength=len(instances.tasks))
    tasks = {task: int(count) for task, count in zip(instances.tasks, counts, strict=True) if count}
    starts = tuple(total * shard // shards for shard in range(shards))
    told = dict(sorted(tasks.items()))
    return SplitPlan(name, instances, digest, told, starts, more, categories)


def write_split(
    shards: Shards, name: str, plan: SplitPlan, more: Collection[str] = ()
) -> list[Shard]:
    """Writes what is missing or damaged of a split's shards; whole ones stay.

    Args:
        shards: of the data set.
        name: of the data set.
        plan: of the split.
        more: those of `layout.MORE` that any of its splits has.
    """
    written, kept = [], 0
    with bar(len(plan.instances), f"writing {plan.name}") as progress:
        for number in range(len(plan.starts)):
            file = shard_name(name, plan.name, number, len(plan.starts))
            entry: dict[str, Any] = {"file": file}
            found = shards.find(entry)
            kept += found is not None
            if found is None:
                with shards.writing(entry) as path:
                    entry["rows"], entry["bytes"] = _write(path, plan.of_shard(number), more)
            one = found or entry
            written.append(Shard(file, one["rows"], one["bytes"], one["sha256"]))
            progress.update(one["rows"])
    if kept:
        say(f"{plan.name}: {kept:,} of {len(written):,} shards were there whole")
    return written


def mend(
    folder: Path, plan: SplitPlan, recorded: list[Shard], more: Collection[str] = ()
) -> list[str]:
    """Writes anew the shards of a finished split that are not what its manifest says.

    Returns:
        The files that were written.

    Raises:
        UserError: if a shard comes out otherwise than it was recorded.
    """
    mended = []
    for number, known in enumerate(recorded):
        problem = damage({known.file: known.digest}, lambda name: file_digest(folder / name))
        if problem is None:
            continue
        say(f"{folder}/{problem}; it is made again")
        with replacing(folder / known.file) as path:
            count, size = _write(path, plan.of_shard(number), more)
            check(
                Shard(known.file, count, size, file_digest(path)) == known,
                f"{folder / known.file}: comes out otherwise than when it was first written, "
                "perhaps with another version of array_record; give a new --version",
            )
        mended.append(known.file)
    return mended


def _write(path: Path, instances: Iterable[Instance], more: Collection[str]) -> tuple[int, int]:
    """Writes a file of records; gives how many they are, and their bytes."""
    count = size = 0
    try:
        with record_writer(path) as write:
            for instance in instances:
                record = to_record(instance, more)
                write(record)
                count, size = count + 1, size + len(record)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}") from None
    return count, size


def _look_over(instances: Iterable[Instance]) -> tuple[str, int, tuple[str, ...], str]:
    """The digest of all instances, their text in bytes, what of `MORE` they have, and a digest."""
    digest, size, more, categories = InstancesDigest(), 0, set(), []
    for instance in instances:
        digest.update(instance)
        check(
            all(turn[2:] == ("", True) and turn.role != TOOLS for turn in instance.turns),
            f"{instance.id}: has tools, calls, a thought or a turn of weight 0, which a data set "
            "of TFDS does not keep here; train on the file itself",
        )
        more |= {name for name in MORE if getattr(instance, name)}
        categories.append(instance.category)
        texts = (instance.id, instance.task, *(turn.content for turn in instance.turns))
        texts = (*texts, *instance.references, *instance.choices, instance.category)
        size += sum(len(text.encode()) for text in texts)
    there = tuple(name for name in MORE if name in more)
    return (
        digest.hexdigest(),
        size,
        there,
        texts_digest(categories) if "category" in more else "",
    )
