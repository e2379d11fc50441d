"""All cosines at once, block by block into one array of the host."""

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zsg_jax.similarity.search.stream import Stream
from zsg_jax.similarity.search.tiles import compiled, cosines, over_devices


def whole(stream: Stream, tests: int) -> np.ndarray:
    """(N, T) float32: the stream's rows, N of them, with each of the `tests` real test rows."""
    out = np.empty((stream.count, tests), np.float32)
    function = compiled(stream, _block)
    for step in stream:
        result = np.asarray(function(step.rows, stream.test, mesh=stream.mesh))
        for device, (start, stop) in enumerate(step.ranges):
            out[start:stop] = result[device, : stop - start, :tests]
        stream.passed(step)
    return out


def _block(rows: jax.Array, test: jax.Array, *, mesh: Mesh) -> jax.Array:
    result = over_devices(lambda r, t: cosines(r, t).T, mesh, 1, rows, test)
    return lax.with_sharding_constraint(result, NamedSharding(mesh, P()))
