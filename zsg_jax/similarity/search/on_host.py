"""One pass on CPUs: the devices multiply, a span of rows at a time, while the host keeps lists."""

import math
from collections import deque
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh

from zsg_jax.runtime.processes import from_all
from zsg_jax.similarity.search import host_lists
from zsg_jax.similarity.search.host_lists import HostLists
from zsg_jax.similarity.search.statistics import RowStatistics, of_tile
from zsg_jax.similarity.search.stream import TILE, Step, Stream
from zsg_jax.similarity.search.tiles import compiled, over_devices, product

SPAN_PRODUCTS = 1 << 20  # made at a time: what stays in the cache until the host reads it


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
    tiles = stream.block // TILE
    fits = max(1, SPAN_PRODUCTS // (stream.test.shape[0] * TILE))
    span = math.gcd(tiles, 1 << (fits.bit_length() - 1))
    function = compiled(stream, _span)
    line = stream.mesh.devices.flat
    mine = [n for n, d in enumerate(line) if d.process_index == jax.process_index()]
    # A device's list is no longer than its rows are many.
    lists = {
        (device, far): HostLists(tests, max(1, min(k, stream.longest)), TILE, farthest=far)
        for device in mine
        for far, k in lengths.items()
    }
    summary = np.zeros((4, stream.count), np.float32)

    def take(step: Step, number: int, products: jax.Array, of_rows: jax.Array) -> None:
        for shard in products.addressable_shards:
            device = shard.index[0].start or 0
            first, stop = step.ranges[device]
            for tile, product_TxR in enumerate(np.asarray(shard.data)[0]):
                start = first + (number * span + tile) * TILE
                real = min(TILE, stop - start)
                if real > 0:
                    for far in lengths:
                        lists[device, far].add(product_TxR[:tests, :real], start)
        for shard in of_rows.addressable_shards if statistics else ():
            first, stop = step.ranges[shard.index[0].start or 0]
            start = first + number * span * TILE
            of_span = np.asarray(shard.data)[0].transpose(1, 0, 2).reshape(4, -1)
            real = max(0, min(span * TILE, stop - start))
            summary[:, start : start + real] = of_span[:, :real]

    under_way: deque[tuple[Any, ...]] = deque()
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
            under_way.append((step, number, *results))
            # Two under way keep the devices busy while the host chooses.
            if len(under_way) == 2:
                take(*under_way.popleft())
        stream.passed(step)
    while under_way:
        take(*under_way.popleft())
    found = {}
    for far, k in lengths.items():
        keys = [from_all(lists[device, far].best(), stream.mesh) for device in mine]
        best = host_lists.merged([part for parts in keys for part in parts], k)
        found[far] = host_lists.decoded(best, far)
    if not statistics:
        return found, None
    # Each process knows its own rows' and zeros for all others.
    return found, RowStatistics(*np.sum(from_all(summary, stream.mesh), axis=0))


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
    """Products (tiles, T, R) of a device's tiles in the span `number` of its block, and statistics.

    A loop, so that every tile is treated alike: in a straight line of tiles XLA gives each its own
    way of summing.
    """

    def on_one(
        rows_BxD: jax.Array, number: jax.Array, test_TxD: jax.Array, tests: jax.Array
    ) -> tuple[jax.Array, jax.Array | tuple]:
        span_SxD = lax.dynamic_slice_in_dim(rows_BxD, number * tiles * TILE, tiles * TILE)

        def one(tile_RxD: jax.Array) -> tuple[jax.Array, jax.Array | tuple]:
            product_TxR = product(tile_RxD, test_TxD)
            return product_TxR, of_tile(product_TxR, tests) if statistics else ()

        return lax.map(one, span_SxD.reshape(tiles, TILE, -1))

    return over_devices(on_one, mesh, 1, rows, number, test, tests)
