"""One pass over the training embeddings that gives whatever is asked of their cosines."""

from typing import NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zsg_jax.runtime.errors import check
from zsg_jax.runtime.processes import from_all
from zsg_jax.similarity.embeddings import Embeddings, checked
from zsg_jax.similarity.search import on_device as device_pass
from zsg_jax.similarity.search import on_host as host_pass
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.search.stream import (
    GroupSums,
    RowStatistics,
    Stream,
    compiled,
    joined,
    map_tiles,
    over_devices,
)

Lists = tuple[np.ndarray, np.ndarray]  # values and indices, both (T, k), best first


class Found(NamedTuple):
    """What a pass gave; None where it was not asked for.

    Attributes:
        nearest, farthest: cosines (T, k) float32 and indices (T, k) int64 of each test example's
            list.
        statistics: of every training example that was gone over.
        means: (groups, D) float64, the mean unit embedding of each group of training examples.
    """

    nearest: Lists | None
    farthest: Lists | None
    statistics: RowStatistics | None
    means: np.ndarray | None


def scan(
    train: Embeddings,
    test: Embeddings,
    *,
    nearest: int = 0,
    farthest: int = 0,
    statistics: bool = False,
    groups: np.ndarray | None = None,
    excluded: np.ndarray | None = None,
    search: Search = Search(),
    on_host: bool | None = None,
) -> Found:
    """Streams over the training embeddings once; see `cosine.top_k` and `cosine.row_statistics`.

    At no time do more than T × (k + block size) cosines exist on a device.

    Args:
        train, test, excluded, search: as `cosine.top_k` takes them; each device reads its own part
            alone, and each process those of its devices.
        nearest, farthest: lengths of the lists wanted, 0 for none.
        statistics: whether `RowStatistics` are wanted.
        groups: (N,) int64, each example's group, numbered from 0 without gaps, if means are wanted;
            they are of all examples, so that none may be `excluded`.
        on_host: whether lists are made by the host or on the devices; None takes the host for CPUs.
            It never changes a result.

    Raises:
        UserError: see `cosine.top_k` and `cosine.row_statistics`.
    """
    wanted = {far: k for far, k in ((False, nearest), (True, farthest)) if k}
    check(min(nearest, farthest) >= 0, f"k={min(nearest, farthest)}: a list has 0 or more")
    check(not statistics or len(test) > 0, "the test set is empty: it has no statistics")
    check(groups is None or excluded is None, "groups: their means are those of all examples")
    rows = None
    if excluded is not None:
        excluded = np.asarray(excluded)
        fits = excluded.shape == (len(train),) and excluded.dtype == bool
        check(fits, f"excluded: {excluded.shape} {excluded.dtype}; it must be ({len(train)},) bool")
        rows = np.flatnonzero(~excluded)
    sums = None
    if groups is not None:
        fits = groups.shape == (len(train),)
        check(fits, f"{len(train)} training examples, but groups are {groups.shape}")
        sums = GroupSums(groups, checked(train, "train").shape[1])
    stream = Stream(train, test, rows, search, sums)
    lists, summary = _passed(stream, len(test), wanted, statistics, on_host)
    ends = {far: _ended(lists[far], k, rows, far) for far, k in wanted.items()}
    if sums is not None:
        sums.sums = np.sum(from_all(sums.sums, stream.mesh), axis=0)
    return Found(ends.get(False), ends.get(True), summary, sums.means() if sums else None)


def _passed(
    stream: Stream, tests: int, wanted: dict[bool, int], statistics: bool, on_host: bool | None
) -> tuple[dict[bool, Lists], RowStatistics | None]:
    """Cosines and positions of the lists `wanted`, farthest (True) and nearest (False)."""
    # Where a list would hold everything, the matrix is made instead, which is no larger.
    short = {far: k for far, k in wanted.items() if k < stream.count}
    if on_host is None:
        on_host = stream.mesh.devices.flat[0].platform == "cpu"
    lists: dict[bool, Lists] = {}
    summary = None
    if short or statistics:
        one = host_pass if on_host and short else device_pass
        lists, summary = one.run(stream, tests, short, statistics)
    if len(short) < len(wanted):
        cosines = whole_matrix(stream, tests)
        lists |= {far: host_pass.sorted_lists(cosines, far) for far in wanted if far not in short}
    if not wanted and not statistics:
        for step in stream:  # for the groups alone
            stream.passed(step)
    return lists, summary


def _ended(found: Lists, k: int, rows: np.ndarray | None, farthest: bool) -> Lists:
    """Positions as indices, and lists as long as was asked for."""
    values, positions = found
    indices = positions.astype(np.int64) if rows is None else rows[positions]
    missing = k - values.shape[1]
    if missing > 0:
        end = ((0, 0), (0, missing))
        values = np.pad(values, end, constant_values=np.inf if farthest else -np.inf)
        indices = np.pad(indices, end, constant_values=-1)
    return values, indices


def whole_matrix(stream: Stream, tests: int) -> np.ndarray:
    """(N, T) float32: the stream's N embeddings with each of the `tests` real test ones."""
    out = np.empty((stream.count, tests), np.float32)
    function = compiled(stream, _cosines)
    for step in stream:
        result = np.asarray(function(step.rows, stream.test, mesh=stream.mesh))
        for device, (start, stop) in enumerate(step.ranges):
            out[start:stop] = result[device, : stop - start, :tests]
        stream.passed(step)
    return out


def _cosines(rows: jax.Array, test: jax.Array, *, mesh: Mesh) -> jax.Array:
    result = over_devices(
        lambda r, t: joined(map_tiles(r, t, lambda product: product)).T, mesh, 1, rows, test
    )
    return lax.with_sharding_constraint(result, NamedSharding(mesh, P()))
