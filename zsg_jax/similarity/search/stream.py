"""Training rows passing in blocks over a line of devices, test rows lying on all of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zsg_jax.runtime.errors import check
from zsg_jax.similarity.rows import check_pair, unit_block, unit_rows
from zsg_jax.similarity.search.groups import GroupSums
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.stored import Rows

TILE = 256  # training rows of one product: the shape that fixes the bits
TEST_MULTIPLE = 128
DEPTH_MULTIPLE = 16


class Step(NamedTuple):
    """One block of every device.

    Attributes:
        rows: (devices, B, D) float32 unit rows, split over the devices; what is past the end is 0.
        bounds: (devices, 2) int32, split alike: position of the first row, end of all the device's.
        ranges: first and last-plus-one position of the real rows, a pair for each device.
    """

    rows: jax.Array
    bounds: jax.Array
    ranges: list[tuple[int, int]]

    @property
    def rows_in_all(self) -> int:
        """How many real rows the blocks hold."""
        return sum(stop - start for start, stop in self.ranges)


class Stream:
    """Training rows, block by block, on a line of devices; iterating gives each `Step` once.

    `rows`, ascending, restricts the training rows to those; a position is a place in them, or in
    all rows without it. Every device owns one contiguous run of all rows, the same in every pass,
    and reads no others: what a host needs is in its own few files. Lists joined in the order of the
    devices are then in the order of the rows too, which is what breaks ties.

    `groups` is given every row that this process reads, at length one, when they pass first.

    The next block is read and brought to length one while the devices work on the one before.
    """

    def __init__(
        self,
        train: Rows,
        test: Rows,
        rows: np.ndarray | None,
        search: Search,
        groups: GroupSums | None = None,
    ):
        self.train, test = check_pair(train, test)
        self.rows, self._groups = rows, groups
        self.count = len(self.train) if rows is None else len(rows)
        check(self.count < 2**31 - 2**24, f"{self.count} training rows: positions are int32")
        mesh, self._on_progress = search.mesh, search.on_progress
        line = np.array(jax.local_devices()[:1]) if mesh is None else mesh.devices.reshape(-1)
        self.mesh = Mesh(line, ("rows",), axis_types=(AxisType.Auto,))
        self.devices = len(line)
        run = _ceil(-(-len(self.train) // self.devices), TILE)
        owned = np.minimum(np.arange(self.devices + 1) * run, len(self.train))
        # Position of each device's first row, and at last the number of rows.
        self.starts = owned if rows is None else np.searchsorted(rows, owned)
        self.longest = int(np.diff(self.starts).max())
        self.block = min(_ceil(search.block_size, TILE), _ceil(self.longest, TILE))
        self.depth = _ceil(test.shape[1], DEPTH_MULTIPLE)
        # The row after the last test row is their mean, for every function: `row_statistics` needs
        # it, and a test set must have the same shape (hence the same bits) everywhere.
        padded = np.zeros((_ceil(len(test) + 1, TEST_MULTIPLE), self.depth), np.float32)
        unit = unit_rows(test, "test")
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
        shape = (self.devices, *one.shape)
        sharding = NamedSharding(self.mesh, P("rows"))
        return jax.make_array_from_callback(shape, sharding, lambda _: one[None])

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
        # Devices own different numbers of rows, so some end early.
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
