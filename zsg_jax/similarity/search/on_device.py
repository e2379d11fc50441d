"""One pass where the embeddings are: products, lists and statistics on the devices."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zsg_jax.similarity.search.stream import (
    RowStatistics,
    Stream,
    compiled,
    joined,
    map_tiles,
    of_tile,
    over_devices,
    without_negative_zeros,
)


class Lists(NamedTuple):
    """The k best of every test embedding so far; a key is a cosine, or its negative for farthest.

    Attributes:
        keys, positions: (T, k) float32 and int32, best first; -inf where there is none yet.
    """

    keys: Any
    positions: Any


def run(
    stream: Stream, tests: int, lengths: dict[bool, int], statistics: bool
) -> tuple[dict[bool, tuple[np.ndarray, np.ndarray]], RowStatistics | None]:
    """The lists asked for, `lengths` of the farthest (True) and of the nearest (False).

    Returns:
        Cosines (T, k) float32 and positions (T, k) int32 of each, and statistics if asked for.
    """
    lists = {far: jax.tree.map(stream.spread, _empty(stream, k)) for far, k in lengths.items()}
    summary = np.empty((4, stream.count), np.float32)
    function = compiled(stream, _block)
    for step in stream:
        before = lists
        lists, of_rows = function(
            lists,
            step.rows,
            step.bounds,
            stream.test,
            np.int32(tests),
            mesh=stream.mesh,
            statistics=statistics,
        )
        # Two blocks in flight keep host and devices busy; more would only pile up memory.
        jax.block_until_ready(before)
        if statistics:
            result = np.asarray(of_rows)
            for device, (start, stop) in enumerate(step.ranges):
                summary[:, start:stop] = result[device, :, : stop - start]
        stream.passed(step)
    found = {}
    for far, k in lengths.items():
        merged = compiled(stream, _merge_devices)(lists[far], mesh=stream.mesh)
        keys_Txk, positions_Txk = (np.asarray(a)[:tests, :k] for a in merged)
        found[far] = (0 - keys_Txk if far else keys_Txk, positions_Txk)
    return found, RowStatistics(*summary) if statistics else None


def _empty(stream: Stream, k: int) -> Lists:
    # A power of two long, so that neighbouring k share one compilation.
    shape = (stream.test.shape[0], max(8, 1 << (k - 1).bit_length()))
    return Lists(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32))


def _block(
    lists: dict[bool, Lists],
    rows: jax.Array,
    bounds: jax.Array,
    test: jax.Array,
    tests: jax.Array,
    *,
    mesh: Mesh,
    statistics: bool,
) -> tuple[dict[bool, Lists], jax.Array | tuple]:
    def on_one(
        lists: dict[bool, Lists],
        rows_BxD: jax.Array,
        bounds_2: jax.Array,
        test_TxD: jax.Array,
        tests: jax.Array,
    ) -> tuple[dict[bool, Lists], jax.Array | tuple]:
        products_NxTxR, tiles_Nx4xR = map_tiles(
            rows_BxD,
            test_TxD,
            lambda product_TxR: (
                product_TxR if lists else (),
                of_tile(product_TxR, tests) if statistics else (),
            ),
        )
        if lists:
            cosines_TxB = joined(products_NxTxR)
            lists = {far: _added(one, cosines_TxB, bounds_2, far) for far, one in lists.items()}
        if not statistics:
            return lists, ()
        return lists, tiles_Nx4xR.transpose(1, 0, 2).reshape(tiles_Nx4xR.shape[1], -1)

    lists, of_rows = over_devices(on_one, mesh, 3, lists, rows, bounds, test, tests)
    if statistics:
        of_rows = lax.with_sharding_constraint(of_rows, NamedSharding(mesh, P()))
    return lists, of_rows


def _added(lists: Lists, cosines_TxB: jax.Array, bounds_2: jax.Array, farthest: bool) -> Lists:
    """The lists with a block: `bounds_2` is its first position and the end of all."""
    keys_TxB = without_negative_zeros(-cosines_TxB) if farthest else cosines_TxB
    positions_B = bounds_2[0] + jnp.arange(cosines_TxB.shape[1], dtype=jnp.int32)
    keys_TxB = jnp.where(positions_B < bounds_2[1], keys_TxB, -jnp.inf)
    # The list comes first: its positions are the lower ones, and top_k keeps the order of equals.
    keys_Txk, at_Txk = lax.top_k(
        jnp.concatenate([lists.keys, keys_TxB], axis=1), lists.keys.shape[1]
    )
    k = lists.keys.shape[1]
    old_Txk = jnp.take_along_axis(lists.positions, jnp.minimum(at_Txk, k - 1), axis=1)
    return Lists(keys_Txk, jnp.where(at_Txk < k, old_Txk, bounds_2[0] + at_Txk - k))


def _merge_devices(lists: Lists, *, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    devices, tests, k = lists.keys.shape
    keys, positions = (
        lax.with_sharding_constraint(a, NamedSharding(mesh, P()))
        .transpose(1, 0, 2)
        .reshape(tests, devices * k)
        for a in lists
    )
    best_Txk, at_Txk = lax.top_k(keys, k)
    return best_Txk, jnp.take_along_axis(positions, at_Txk, axis=1)
