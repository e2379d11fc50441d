"""Products of training rows with test rows, in tiles of one shape that fixes every bit.

The cosine of one training row with one test row has the same bits whichever function, block size,
number of devices or neighbouring rows it is computed with. A matrix product promises that only for
one shape: XLA may sum in another order for another one. Hence every product here is a fixed `TILE`
of training rows with all test rows; blocks and devices take whole tiles, and only whole tiles are
ever added or left out. A sum over test rows is taken inside a tile for the same reason.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from zsg_jax.similarity.search.stream import TILE, Stream


def compiled(stream: Stream, function: Callable) -> Callable:
    """`function` jitted for the stream's kind of device; its keyword arguments are static."""
    return _jitted(function, stream.mesh.devices.flat[0].platform)


@functools.cache
def _jitted(function: Callable, platform: str) -> Callable:
    # On a GPU the autotuner times several products and may settle on another one for the same
    # tile in another program or another run.
    options = {"xla_gpu_deterministic_ops": True} if platform == "gpu" else None
    arguments = inspect.signature(function).parameters.values()
    static = [a.name for a in arguments if a.kind is a.KEYWORD_ONLY]
    return jax.jit(function, static_argnames=static, compiler_options=options)


def cosines(rows_BxD: jax.Array, test_TxD: jax.Array) -> jax.Array:
    """(T, B) float32, one product a tile, without negative zeros."""
    return cosines_and(rows_BxD, test_TxD, lambda product_TxR: ())[0]


def cosines_and(
    rows_BxD: jax.Array, test_TxD: jax.Array, function: Callable[[jax.Array], Any]
) -> tuple[jax.Array, Any]:
    """`cosines`, and what `function` makes of each tile's product (T, R), tiles first."""

    def one(tile_RxD: jax.Array) -> tuple[jax.Array, Any]:
        product_TxR = product(tile_RxD, test_TxD)
        return product_TxR, function(product_TxR)

    depth = rows_BxD.shape[1]
    tiles_NxTxR, others = lax.map(one, rows_BxD.reshape(-1, TILE, depth))
    cosines_TxB = tiles_NxTxR.transpose(1, 0, 2).reshape(test_TxD.shape[0], -1)
    # top_k puts 0.0 before -0.0: they have to tie. (XLA drops an addition of 0.0.)
    return jnp.where(cosines_TxB == 0, 0.0, cosines_TxB), others


def product(tile_RxD: jax.Array, test_TxD: jax.Array) -> jax.Array:
    """(T, R) float32 of one tile, as it comes: zeros may be negative."""
    product_TxR = lax.dot_general(
        test_TxD, tile_RxD, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST
    )
    # Whatever uses the product must not be fused into it: that could change its summation.
    return lax.optimization_barrier(product_TxR)


def over_devices(function: Callable, mesh: Mesh, split: int, *arrays: Any) -> Any:
    """Runs `function` on each device's part of the first `split` arrays and all of the others."""
    specs = tuple(P("rows") if i < split else P() for i in range(len(arrays)))

    def on_one(*parts: jax.Array) -> Any:
        first = [jax.tree.map(lambda a: a[0], p) if i < split else p for i, p in enumerate(parts)]
        result = function(*first)
        return jax.tree.map(lambda r: r[None], result)

    return jax.shard_map(on_one, mesh=mesh, in_specs=specs, out_specs=P("rows"), check_vma=False)(
        *arrays
    )
