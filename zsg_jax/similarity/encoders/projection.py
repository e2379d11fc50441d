"""Long vectors to short ones by random signs, which keeps their inner products.

A vector's number d is 1/√D times the sum of its coordinates with random signs. The inner product of
two projected vectors is then right in the mean, and off by √((1 + c²) / D) of their lengths or
less, c being their cosine (D. Achlioptas, "Database-friendly random projections", 2003, as LESS
uses it, arXiv 2402.04333). The signs follow from the seed and the coordinate's number alone; they
are made when they are needed, a few coordinates at a time, and are never kept.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# Coordinates whose signs are drawn by one key, and of how many such units at once: what fits a
# CPU's cache, or keeps an accelerator busy.
UNIT = 256
_UNITS = {"cpu": 1}
_UNITS_ELSEWHERE = 16
# Vectors that one pass over the signs serves: as many as take so many numbers, within bounds.
_HELD = {"cpu": 1 << 26}
_HELD_ELSEWHERE = 1 << 29
_ROWS = (8, 128)


def signs(seed: int, dimension: int, unit: jax.Array | int) -> jax.Array:
    """The signs of the coordinates from `unit` · `UNIT` on, (UNIT, dimension) float32 of ±1."""
    key = jax.random.fold_in(jax.random.key(seed), unit)
    words = jax.random.bits(key, (UNIT, 1, -(-dimension // 32)), jnp.uint32)
    # Column 32 · w + b would be bit b of word w; so, a shift serves a run of words.
    ones = (words >> jnp.arange(32, dtype=jnp.uint32)[:, None]) & 1
    return (1.0 - 2.0 * ones.astype(jnp.float32)).reshape(UNIT, -1)[:, :dimension]


class Projection:
    """Projects vectors of P numbers to D, over the devices of a mesh.

    Attributes:
        dimension: D.
        width: P, filled up to whole units.
        rows: vectors at most that a device holds for one pass over the signs.
    """

    def __init__(self, count: int, dimension: int, seed: int, mesh: Mesh) -> None:
        """Takes the number of coordinates, D, the seed of the signs and where vectors lie."""
        platform = mesh.devices.flat[0].platform
        units = _UNITS.get(platform, _UNITS_ELSEWHERE)
        self.dimension, self.width = dimension, -(-count // (units * UNIT)) * units * UNIT
        held = _HELD.get(platform, _HELD_ELSEWHERE) // self.width
        self.rows = min(max(held, _ROWS[0]), _ROWS[1])
        self._mesh, self._by_rows = mesh, P(mesh.axis_names)
        mapped = partial(jax.shard_map, mesh=mesh, check_vma=False)

        def project(vectors_BxP: jax.Array) -> jax.Array:
            # By parts: the number of a coordinate may be larger than int32 holds.
            parts = vectors_BxP.reshape(len(vectors_BxP), -1, units * UNIT)

            def add(number: jax.Array, sums_BxD: jax.Array) -> jax.Array:
                part = jax.vmap(partial(signs, seed, dimension))(number * units + jnp.arange(units))
                some = jax.lax.dynamic_index_in_dim(parts, number, axis=1, keepdims=False)
                some = jnp.matmul(
                    some, part.reshape(-1, dimension), precision=jax.lax.Precision.HIGHEST
                )
                return sums_BxD + some

            zeros = jnp.zeros((len(vectors_BxP), dimension), jnp.float32)
            return jax.lax.fori_loop(0, self.width // (units * UNIT), add, zeros) / dimension**0.5

        def put(held_BxP: jax.Array, some_bxP: jax.Array, start: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(held_BxP, some_bxP, start, axis=0)

        rows = self._by_rows
        self._project = jax.jit(mapped(project, in_specs=rows, out_specs=rows))
        self._put = jax.jit(
            mapped(put, in_specs=(rows, rows, P()), out_specs=rows), donate_argnums=0
        )

    def fill(self, vectors_BxP: jax.Array) -> jax.Array:
        """(B, count) with zeros behind, (B, width); may be jitted."""
        return jnp.pad(vectors_BxP, ((0, 0), (0, self.width - vectors_BxP.shape[1])))

    def run(
        self, batches: Iterable[tuple[list[int], jax.Array]]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Projects vectors; each has the same bits whatever others are given with it.

        Args:
            batches: places of vectors, and those, (B, width) float32, rows over the devices, B at
                most `rows` a device; rows beyond the places mean nothing.

        Returns:
            Places and (n, D) float32 as soon as they are computed.
        """
        devices = self._mesh.size
        held: Any = None
        # How many rows each device holds; and of every vector its place and its row among all.
        filled, places, at = 0, list[int](), list[int]()
        for rows, some in batches:
            each = len(some) // devices
            if filled + each > self.rows:
                yield places, np.asarray(self._project(held))[at]
                filled, places, at = 0, [], []
            if held is None:
                where = NamedSharding(self._mesh, self._by_rows)
                held = jnp.zeros((devices * self.rows, self.width), jnp.float32, device=where)
            held = self._put(held, some, filled)
            places += rows
            at += [i // each * self.rows + filled + i % each for i in range(len(rows))]
            filled += each
        if places:
            yield places, np.asarray(self._project(held))[at]
