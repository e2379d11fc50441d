"""Which rows of which split go into which shard, before any is written; it decides every byte."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from zsg_jax.data.formats.tfds.layout import shard_name
from zsg_jax.data.instance import Instance, InstancesDigest
from zsg_jax.data.instances import Instances
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.progress import track

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class SplitPlan:
    """One split of a data set.

    Attributes:
        name: "train" or "test".
        digest: what `instance.instances_digest` gives for its rows.
        rows: how many there are.
        tasks: how many rows each task has, sorted by its name.
        starts: the first row of each shard; shards differ by one row at most.
    """

    name: str
    digest: str
    rows: int
    tasks: dict[str, int]
    starts: tuple[int, ...]

    def bounds(self, shard: int) -> tuple[int, int]:
        """The first row of a shard, and the one after its last."""
        ends = (*self.starts[1:], self.rows)
        return self.starts[shard], ends[shard]

    def shard_name(self, name: str, shard: int) -> str:
        """The file of a shard of the data set `name`."""
        return shard_name(name, self.name, shard, len(self.starts))

    def facts(self) -> dict[str, Any]:
        """What tells two plans apart, JSON-ready."""
        return {
            "rows": self.rows,
            "instances_digest": self.digest,
            "tasks": self.tasks,
            "starts": list(self.starts),
        }


def plan_split(
    name: str, instances: Instances, shard_bytes: float, shard_rows: int | None
) -> SplitPlan:
    """Plans a split, reading all of its rows once.

    Args:
        name: of the split.
        instances: its rows.
        shard_bytes: text of a shard at most, as UTF-8, give or take a row's.
        shard_rows: rows of a shard at most; it goes before `shard_bytes`.

    Raises:
        UserError: if there is no row, or would be more shards than their names can count.
    """
    rows = len(instances)
    check(rows > 0, f"--{name}: no row is left")
    digest, size = _digested(track(instances, f"checking {name}", rows))
    # The quotient of a tiny number may be infinite.
    parts = rows / shard_rows if shard_rows else min(rows, size / shard_bytes)
    shards = min(max(math.ceil(parts), 1), rows)
    check(
        shards < 100_000,
        f"--{name}: would be {shards:,} shards; give a larger --shard-mb or --shard-rows",
    )
    counts = np.bincount(instances.task, minlength=len(instances.tasks))
    tasks = {task: int(count) for task, count in zip(instances.tasks, counts, strict=True) if count}
    starts = tuple(rows * shard // shards for shard in range(shards))
    return SplitPlan(name, digest, rows, dict(sorted(tasks.items())), starts)


def _digested(instances: Iterable[Instance]) -> tuple[str, int]:
    """The digest of all instances, and their text in bytes."""
    digest, size = InstancesDigest(), 0
    for instance in instances:
        digest.update(instance)
        texts = (instance.id, instance.task, *(turn.content for turn in instance.turns))
        size += sum(len(text.encode()) for text in (*texts, *instance.references))
    return digest.hexdigest(), size
