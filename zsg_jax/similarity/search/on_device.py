"""One pass where the rows are: products, lists and statistics on the devices, ends on the host."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zsg_jax.similarity.search import running_lists
from zsg_jax.similarity.search.running_lists import Lists
from zsg_jax.similarity.search.statistics import RowStatistics, of_tile
from zsg_jax.similarity.search.stream import Stream
from zsg_jax.similarity.search.tiles import compiled, over_devices


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
    # Lists are a power of two long so that neighbouring k share one compilation.
    lists = {
        far: jax.tree.map(
            stream.spread,
            running_lists.empty(stream.test.shape[0], max(8, 1 << (k - 1).bit_length())),
        )
        for far, k in lengths.items()
    }
    summary = np.empty((4, stream.count), np.float32)
    function = compiled(stream, _block)
    for step in stream:
        waiting = [one.used for one in lists.values()]
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
        jax.block_until_ready(waiting)
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
        function = (lambda product_TxR: of_tile(product_TxR, tests)) if statistics else None
        lists, tiles_Nx4xR = running_lists.add(lists, rows_BxD, bounds_2, test_TxD, function)
        if not statistics:
            return lists, ()
        return lists, tiles_Nx4xR.transpose(1, 0, 2).reshape(tiles_Nx4xR.shape[1], -1)

    lists, of_rows = over_devices(on_one, mesh, 3, lists, rows, bounds, test, tests)
    if statistics:
        of_rows = lax.with_sharding_constraint(of_rows, NamedSharding(mesh, P()))
    return lists, of_rows


def _merge_devices(lists: Lists, *, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    lists = over_devices(running_lists.merged, mesh, 1, lists)
    keys, positions = lists.keys, lists.positions
    everywhere = NamedSharding(mesh, P())
    devices, tests, k = keys.shape
    if devices == 1:
        return keys[0], positions[0]
    joined_keys, joined_positions = (
        lax.with_sharding_constraint(a, everywhere).transpose(1, 0, 2).reshape(tests, devices * k)
        for a in (keys, positions)
    )
    best_Txk, at_Txk = lax.top_k(joined_keys, k)
    return best_Txk, jnp.take_along_axis(joined_positions, at_Txk, axis=1)
