"""Lists made by NumPy: one pass on CPUs, in which the devices multiply and the host chooses.

On a CPU the host reads the products where they are, and what XLA has for choosing among them there
runs on one thread and sorts too much. A cosine and its position make one whole number, the smaller
the better, so that NumPy's fastest partitions and sorts keep ties in the order of the positions.
"""

import math
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

from zsg_jax.runtime.processes import from_all
from zsg_jax.similarity.search.stream import (
    TILE,
    RowStatistics,
    Step,
    Stream,
    compiled,
    map_tiles,
    of_tile,
    over_devices,
)

SPAN_PRODUCTS = 1 << 20  # made at a time: what stays in the cache until the host reads it
SORTED_AT_ONCE = 1 << 18  # numbers of 64 bits: what fits a cache
NOTHING = np.iinfo(np.int64).max


def run(
    stream: Stream,
    tests: int,
    lengths: dict[bool, int],
    statistics: bool,
) -> tuple[dict[bool, tuple[np.ndarray, np.ndarray]], RowStatistics | None]:
    """The lists asked for, `lengths` of the farthest (True) and of the nearest (False).

    Returns:
        Cosines (T, k) float32 and positions (T, k) int32 of each, and statistics if asked for.
    """
    line = stream.mesh.devices.flat
    local = [n for n, d in enumerate(line) if d.process_index == jax.process_index()]
    # A device's list is no longer than its embeddings are many.
    lists = {
        (device, far): HostLists(tests, max(1, min(k, stream.longest)), TILE, farthest=far)
        for device in local
        for far, k in lengths.items()
    }
    summary = np.zeros((4, stream.count), np.float32)
    for step, offset, products, of_rows in _spans(stream, tests, statistics):
        for shard in products.addressable_shards:
            device = shard.index[0].start or 0
            first, stop = step.ranges[device]
            for tile, product_TxR in enumerate(np.asarray(shard.data)[0]):
                start = first + offset + tile * TILE
                real = min(TILE, stop - start)
                if real > 0:
                    for far in lengths:
                        lists[device, far].add(product_TxR[:tests, :real], start)
        for shard in of_rows.addressable_shards if statistics else ():
            first, stop = step.ranges[shard.index[0].start or 0]
            of_span = np.asarray(shard.data)[0].transpose(1, 0, 2).reshape(4, -1)
            real = max(0, min(of_span.shape[1], stop - first - offset))
            summary[:, first + offset :][:, :real] = of_span[:, :real]
    found = {}
    for far, k in lengths.items():
        keys = [from_all(lists[device, far].best(), stream.mesh) for device in local]
        best = _merged([part for parts in keys for part in parts], k)
        found[far] = _decoded(best, far)
    if not statistics:
        return found, None
    # Each process knows its own and zeros for all others.
    return found, RowStatistics(*np.sum(from_all(summary, stream.mesh), axis=0))


def _spans(
    stream: Stream, tests: int, statistics: bool
) -> Iterator[tuple[Step, int, jax.Array, Any]]:
    """A step, where in its blocks a span begins, and what `_span` gives of that.

    Two are under way, which keeps the devices busy while the host chooses.
    """
    tiles = stream.block // TILE
    fits = max(1, SPAN_PRODUCTS // (stream.test.shape[0] * TILE))
    span = math.gcd(tiles, 1 << (fits.bit_length() - 1))
    function = compiled(stream, _span)
    under_way: deque[tuple[Step, int, jax.Array, Any]] = deque()
    for step in stream:
        for number in range(tiles // span):
            results = function(
                step.rows,
                np.int32(number),
                stream.test,
                np.int32(tests),
                mesh=stream.mesh,
                tiles=span,
                statistics=statistics,
            )
            under_way.append((step, number * span * TILE, *results))
            if len(under_way) == 2:
                yield under_way.popleft()
        stream.passed(step)
    yield from under_way


def _span(
    rows: jax.Array,
    number: jax.Array,
    test: jax.Array,
    tests: jax.Array,
    *,
    mesh: Mesh,
    tiles: int,
    statistics: bool,
) -> tuple[jax.Array, jax.Array | tuple]:
    """Products (tiles, T, R) and statistics of the tiles in the span `number` of a block."""

    def on_one(
        rows_BxD: jax.Array, number: jax.Array, test_TxD: jax.Array, tests: jax.Array
    ) -> tuple[jax.Array, jax.Array | tuple]:
        span_SxD = lax.dynamic_slice_in_dim(rows_BxD, number * tiles * TILE, tiles * TILE)
        return map_tiles(
            span_SxD,
            test_TxD,
            lambda product_TxR: (
                product_TxR,
                of_tile(product_TxR, tests) if statistics else (),
            ),
        )

    return over_devices(on_one, mesh, 1, rows, number, test, tests)


class HostLists:
    """The k best of each of T test embeddings, given products by ascending position.

    A product is compared with the worst of its full list, and the few that beat it are put behind
    the list; when the room there is used up, a partition keeps the k best.
    """

    def __init__(self, tests: int, k: int, room: int, *, farthest: bool) -> None:
        """Takes the number of lists, their length, and how many products come at a time at most."""
        self._k, self._room, self._farthest = k, room, farthest
        width = k + max(k, 2 * room)
        self._keys_TxW = np.full((tests, width), NOTHING)
        self._first_T = np.arange(tests) * width
        self._used_T = np.zeros(tests, np.int64)
        # The worst of each full list; infinitely bad before it is full.
        self._worst_Tx1 = np.full((tests, 1), np.inf if farthest else -np.inf, np.float32)

    def add(self, product_TxR: np.ndarray, start: int) -> None:
        """Takes R cosines of each test, at most `room`; the first is of position `start`."""
        beats = np.less if self._farthest else np.greater
        # Equal to the worst is no better: every position in the list is a lower one.
        at = np.flatnonzero(beats(product_TxR, self._worst_Tx1))
        if not len(at):
            return
        tests, width = product_TxR.shape
        before = np.searchsorted(at, np.arange(tests + 1) * width)  # of what is for earlier lists
        count_T = np.diff(before)
        position = at + np.repeat(start - np.arange(tests) * width, count_T)
        room = np.arange(len(at)) + np.repeat(self._first_T + self._used_T - before[:-1], count_T)
        keys = _encoded(np.take(product_TxR, at), position, self._farthest)
        self._keys_TxW.reshape(-1)[room] = keys
        self._used_T += count_T
        full = np.flatnonzero(self._used_T > self._keys_TxW.shape[1] - self._room)
        if len(full):
            self._shorten(full)

    def best(self) -> np.ndarray:
        """(T, k) int64 keys, best first, then `NOTHING` where there are fewer."""
        self._shorten(np.arange(len(self._used_T)))
        return np.sort(self._keys_TxW[:, : self._k], axis=1)

    def _shorten(self, lists: np.ndarray) -> None:
        """Leaves the k best in some lists."""
        keys = self._keys_TxW[lists]
        keys.partition(self._k - 1, axis=1)
        keys[:, self._k :] = NOTHING  # all room that is not used holds it
        self._keys_TxW[lists] = keys
        self._used_T[lists] = np.minimum(self._used_T[lists], self._k)
        worst = keys[:, self._k - 1]
        full = worst != NOTHING
        self._worst_Tx1[lists[full], 0] = _decoded(worst[full], self._farthest)[0]


def _encoded(values: np.ndarray, positions: np.ndarray, farthest: bool) -> np.ndarray:
    """int64 keys of float32 cosines and their positions, from 0 to 2^31 - 1."""
    bits = (values + np.float32(0)).view(np.int32)  # no negative zeros
    rising = np.where(bits < 0, bits ^ np.int32(0x7FFFFFFF), bits)
    return ((rising if farthest else ~rising).astype(np.int64) << 32) | positions


def _decoded(keys: np.ndarray, farthest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cosines, float32, and positions, int32, of keys."""
    rising = (keys >> 32).astype(np.int32)
    rising = rising if farthest else ~rising
    bits = np.where(rising < 0, rising ^ np.int32(0x7FFFFFFF), rising)
    return bits.view(np.float32), (keys & 0x7FFFFFFF).astype(np.int32)


def _merged(keys: list[np.ndarray], k: int) -> np.ndarray:
    """(T, k) keys, best first, of several such tables for the same test embeddings."""
    if len(keys) == 1:
        return keys[0]
    joined = np.concatenate(keys, axis=1)
    joined.sort(axis=1)
    return joined[:, :k]


def sorted_lists(matrix_NxT: np.ndarray, farthest: bool) -> tuple[np.ndarray, np.ndarray]:
    """Each column's values, largest (or smallest) first, and their rows, equals by lower row.

    Args:
        matrix_NxT: float32 without NaN.
        farthest: smallest first.

    Returns:
        (T, N) float32 and (T, N) int32.
    """
    rows, tests = matrix_NxT.shape
    values, order = np.empty((tests, rows), np.float32), np.empty((tests, rows), np.int32)
    step = max(1, SORTED_AT_ONCE // max(rows, 1))

    def sort(start: int) -> None:
        here = slice(start, start + step)
        keys = _encoded(matrix_NxT[:, here].T.copy(), np.arange(rows), farthest)
        keys.sort(axis=1)
        values[here], order[here] = _decoded(keys, farthest)

    # NumPy leaves the interpreter to others while it sorts.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(sort, range(0, tests, step)))
    return values, order
