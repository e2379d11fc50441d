"""Training embeddings passing in blocks over a line of devices, and what is made of a block.

The cosine of one training embedding with one test embedding has the same bits whichever function,
block size, number of devices or neighbours it is computed with. A matrix product promises that only
for one shape: XLA may sum in another order for another one. Hence every product here is a fixed
`TILE` of training embeddings with all test embeddings; blocks and devices take whole tiles, and
only whole tiles are ever added or left out. A sum over test embeddings is taken inside a tile for
the same reason.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zsg_jax.runtime.errors import check
from zsg_jax.similarity.embeddings import Embeddings, check_pair, unit_block, unit_embeddings
from zsg_jax.similarity.search.options import Search

TILE = 256  # training embeddings of one product: the shape that fixes the bits
TEST_MULTIPLE = 128
DEPTH_MULTIPLE = 16

# Numbers are added as multiples of 2^-38, by which sums are exact: they do not depend on an order,
# and 2^25 embeddings fit 64 bits. A number under 2^-15 may lose digits past 2^-38.
SCALE = float(1 << 38)
MOST = 1 << 25


class GroupSums:
    """Sums of unit embeddings by group."""

    def __init__(self, groups: np.ndarray, width: int) -> None:
        """Takes the group of every embedding, (N,) whole numbers from 0 without gaps."""
        self._groups, self._counts = groups, np.bincount(groups)
        largest = int(self._counts.max(initial=0))
        check(largest < MOST, f"a group of {largest:,}: fewer than {MOST:,} can be summed")
        self.sums = np.zeros((len(self._counts), width), np.int64)

    def add(self, unit_RxD: np.ndarray, numbers: np.ndarray | slice) -> None:
        """Takes unit embeddings, each once; `numbers` says which ones they are."""
        groups = self._groups[numbers]
        if not len(groups):
            return
        order = np.argsort(groups, kind="stable")
        groups = groups[order]
        first = np.flatnonzero(np.diff(groups, prepend=-1))
        # Exact but for the rounding: float32 in float64, times a power of two.
        whole = np.rint(unit_RxD[order].astype(np.float64) * SCALE).astype(np.int64)
        self.sums[groups[first]] += np.add.reduceat(whole, first, axis=0)

    def means(self) -> np.ndarray:
        """(groups, D) float64, not of unit length."""
        return self.sums / SCALE / self._counts[:, None]


class Step(NamedTuple):
    """One block of every device.

    Attributes:
        rows: (devices, B, D) float32 of length one, split over the devices; 0 past the end.
        bounds: (devices, 2) int32, split alike: position of the first, end of all the device's.
        ranges: first and last-plus-one position of the real ones, a pair for each device.
    """

    rows: jax.Array
    bounds: jax.Array
    ranges: list[tuple[int, int]]

    @property
    def rows_in_all(self) -> int:
        """How many embeddings the blocks hold."""
        return sum(stop - start for start, stop in self.ranges)


class Stream:
    """Training embeddings, in blocks, on a line of devices; iterating gives each `Step` once.

    `rows`, ascending, restricts them to those; a position is a place in them, or in all without it.
    Every device owns one contiguous run of all, the same in every pass, and reads no others: what a
    host needs is in its own few files. Lists joined in the order of the devices are then in the
    order of the examples too, which is what breaks ties.

    `groups` is given every embedding that this process reads, at length one, in the first pass.

    The next block is read and brought to length one while the devices work on the one before.
    """

    def __init__(
        self,
        train: Embeddings,
        test: Embeddings,
        rows: np.ndarray | None,
        search: Search,
        groups: GroupSums | None = None,
    ):
        self.train, test = check_pair(train, test)
        self.rows, self._groups = rows, groups
        self.count = len(self.train) if rows is None else len(rows)
        check(self.count < 2**31 - 2**24, f"{self.count} training examples: positions are int32")
        mesh, self._on_progress = search.mesh, search.on_progress
        line = np.array(jax.local_devices()[:1]) if mesh is None else mesh.devices.reshape(-1)
        self.mesh = Mesh(line, ("rows",), axis_types=(AxisType.Auto,))
        self.devices = len(line)
        run = _ceil(-(-len(self.train) // self.devices), TILE)
        owned = np.minimum(np.arange(self.devices + 1) * run, len(self.train))
        # Position of each device's first, and at last the number of all.
        self.starts = owned if rows is None else np.searchsorted(rows, owned)
        self.longest = int(np.diff(self.starts).max())
        self.block = min(_ceil(search.block_size, TILE), _ceil(self.longest, TILE))
        self.depth = _ceil(test.shape[1], DEPTH_MULTIPLE)
        # After the last test embedding comes their mean, for every function: statistics need it,
        # and a test set must have the same shape (hence the same bits) everywhere.
        padded = np.zeros((_ceil(len(test) + 1, TEST_MULTIPLE), self.depth), np.float32)
        unit = unit_embeddings(test, "test")
        padded[: len(test), : test.shape[1]] = unit
        if len(test):
            padded[len(test), : test.shape[1]] = unit.mean(axis=0, dtype=np.float64)
        everywhere = NamedSharding(self.mesh, P())
        self.test = jax.make_array_from_callback(padded.shape, everywhere, lambda at: padded[at])

    def passed(self, step: Step) -> None:
        """Tells whoever follows the search that a block is done."""
        self._on_progress(step.rows_in_all, self.count)

    def spread(self, one: np.ndarray) -> jax.Array:
        """(devices, …): `one` on every device."""
        return _split(np.broadcast_to(one, (self.devices, *one.shape)), self.mesh)

    def __iter__(self) -> Iterator[Step]:
        with ThreadPoolExecutor(1) as reader:
            coming = None
            for offset in range(0, self.longest, self.block or 1):
                step = reader.submit(self._step, offset)
                if coming is not None:
                    yield coming.result()
                coming = step
            if coming is not None:
                yield coming.result()
            self._groups = None

    def _step(self, offset: int) -> Step:
        first, ends = self.starts[:-1] + offset, self.starts[1:]
        # Devices own different numbers of embeddings, so some end early.
        ranges = [
            (int(start), max(int(start), int(min(end, start + self.block))))
            for start, end in zip(first, ends, strict=True)
        ]
        bounds = np.stack([first, ends], axis=1).astype(np.int32)
        return Step(self._place(ranges), _split(bounds, self.mesh), ranges)

    def _place(self, ranges: list[tuple[int, int]]) -> jax.Array:
        def load(at: tuple[slice, ...] | None) -> np.ndarray:
            device = at[0].start if at else 0
            return self._load(*ranges[device or 0])[None]

        shape = (self.devices, self.block, self.depth)
        return jax.make_array_from_callback(shape, NamedSharding(self.mesh, P("rows")), load)

    def _load(self, start: int, stop: int) -> np.ndarray:
        numbers = np.arange(start, stop) if self.rows is None else self.rows[start:stop]
        raw = self.train[start:stop] if self.rows is None else self.train[numbers]
        out = np.zeros((self.block, self.depth), np.float32)
        unit = unit_block(raw, "train", numbers, out[: len(raw), : raw.shape[1]])
        if self._groups is not None:
            self._groups.add(unit, numbers)
        return out


def _split(x: np.ndarray, mesh: Mesh) -> jax.Array:
    sharding = NamedSharding(mesh, P("rows"))
    return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])


def _ceil(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


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


def map_tiles(
    rows_BxD: jax.Array, test_TxD: jax.Array, function: Callable[[jax.Array], Any]
) -> Any:
    """What `function` makes of each tile's product (T, R), tiles first.

    A loop, so that every tile is treated alike: in a straight line of tiles XLA gives each its own
    way of summing.
    """
    tiles_NxRxD = rows_BxD.reshape(-1, TILE, rows_BxD.shape[1])
    return lax.map(lambda tile_RxD: function(product(tile_RxD, test_TxD)), tiles_NxRxD)


def joined(products_NxTxR: jax.Array) -> jax.Array:
    """(T, B) float32 cosines of tiles side by side, without negative zeros."""
    cosines_TxB = products_NxTxR.transpose(1, 0, 2).reshape(products_NxTxR.shape[1], -1)
    return without_negative_zeros(cosines_TxB)


def without_negative_zeros(x: jax.Array) -> jax.Array:
    """`top_k` puts 0.0 before -0.0, but they have to tie. (XLA drops an addition of 0.0.)"""
    return jnp.where(x == 0, 0.0, x)


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


class RowStatistics(NamedTuple):
    """What each training example is to the test examples; each field is (N,) float32.

    Attributes:
        minimum, maximum, mean: cosine over the test examples.
        euclidean: mean Euclidean distance of unit embeddings, sqrt(2 - 2·cos), over them.
    """

    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    euclidean: np.ndarray


def of_tile(product_TxR: jax.Array, tests: jax.Array) -> jax.Array:
    """The fields of `RowStatistics`, (4, R) float32, of a tile.

    The mean cosine is the product with the mean test embedding, which `Stream` puts after the last
    of the `tests` real ones; a distance is no linear function, so its mean is over all pairs.
    """
    product_TxR = without_negative_zeros(product_TxR)
    real_Tx1 = (jnp.arange(len(product_TxR)) < tests)[:, None]
    minimum = jnp.where(real_Tx1, product_TxR, jnp.inf).min(axis=0)
    maximum = jnp.where(real_Tx1, product_TxR, -jnp.inf).max(axis=0)
    distance_TxR = jnp.sqrt(jnp.maximum(2 - 2 * product_TxR, 0))
    # Sums of some, then their sum, lose less than one long sum; XLA must not make them one.
    parts_GxMxR = jnp.where(real_Tx1, distance_TxR, 0).reshape(
        -1, TEST_MULTIPLE, distance_TxR.shape[1]
    )
    sums_GxR = lax.optimization_barrier(parts_GxMxR.sum(axis=1))
    sums_R = lax.optimization_barrier(sums_GxR.sum(axis=0))
    return jnp.stack([minimum, maximum, product_TxR[tests], sums_R / tests])
