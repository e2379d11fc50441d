"""Sequences of tokens to embeddings, in batches of a few shapes over the devices of a mesh.

XLA sums in another order for another array shape, so a sequence's shape depends on nothing but its
number of tokens: it goes to the narrowest bucket that holds it, and every batch of a bucket has
that bucket's one shape.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zsg_jax.models.placement import Params

_SHORT: tuple[int, ...] = (
    16,
    32,
    48,
    64,
    96,
    128,
    160,
    192,
    224,
    256,
    320,
    384,
    448,
    512,
    640,
    768,
    1024,
)
_LONG = (1280, 1536, 2048, 2560, 3072, 4096, 6144, 8192, 12288, 16384, 24576)
# What takes long to compile is compiled for half as many.
_COARSE = (32, 64, 96, 128, 192, 256, 384, 512, 768, *_LONG[::2])
# An accelerator computes what is padded sooner than it compiles another width: beside seven other
# processes on an H200 a width took a minute.
_FEW: tuple[int, ...] = tuple(32 << i for i in range(10))
# Tokens in one batch of one device: what fits a CPU's cache, or keeps an accelerator busy.
_BATCH_TOKENS = {"cpu": 1024}
_BATCH_TOKENS_ELSEWHERE = 32768


class Tokens(NamedTuple):
    """Those of one sequence.

    Attributes:
        ids: (n,) ints, n at most the longest that was announced.
        counted: (n,) bool, those that its embedding is pooled of; None: all.
    """

    ids: Any
    counted: Any = None


class _Batch(NamedTuple):
    """Row numbers, tokens (B, L) int32, lengths (B,) int32 and what is counted, (B, L) bool."""

    rows: list[int]
    tokens: np.ndarray
    lengths: np.ndarray
    counted: np.ndarray


class Buckets:
    """What embeds sequences.

    Attributes:
        widths: of the buckets, ascending.
        params: the parameters where they lie; may be set to others of the same shapes, `placed`.
        compiled: the function of a batch, for each width once.
    """

    def __init__(
        self,
        embed: Callable[..., jax.Array],
        params: Params,
        *,
        dimension: int,
        max_tokens: int,
        mesh: Mesh | None = None,
        most_rows: int | None = None,
        coarse: bool = False,
        gathered: bool = True,
    ) -> None:
        """Places the parameters, all of them on every device.

        Args:
            embed: of parameters, tokens (B, L) int32, lengths (B,) int32 and counted (B, L) bool
                gives (B, D) float32, each embedding a function of its own sequence.
            params: nested dict of arrays, which every process holds alike.
            dimension: D.
            max_tokens: of a sequence.
            mesh: its devices share every batch; without one, the first device does it all. An
                embedding is the same bit for bit on either if the devices are of one kind.
            most_rows: sequences at most in one batch of one device.
            coarse: whether there are few widths, which are compiled sooner and computed later.
            gathered: whether every device gets the embeddings of all, or keeps its own alone.
        """
        self._dimension, self._most_rows = dimension, most_rows
        self._mesh = mesh or first_device()
        self._platform = self._mesh.devices.flat[0].platform
        widths = _COARSE if coarse else _SHORT + _LONG
        widths = widths if self._platform == "cpu" else _FEW
        self.widths = [w for w in widths if w < max_tokens] + [max_tokens]
        everywhere, rows = NamedSharding(self._mesh, P()), P(self._mesh.axis_names)
        self._everywhere, self._rows = everywhere, NamedSharding(self._mesh, rows)
        self.params = self.placed(params)
        # shard_map and not a sharded jit: each device then runs the program of one device alone.
        mapped = jax.shard_map(
            embed,
            mesh=self._mesh,
            in_specs=(P(), rows, rows, rows),
            out_specs=rows,
            check_vma=False,
        )
        self.compiled = jax.jit(mapped, out_shardings=everywhere if gathered else self._rows)

    def placed(self, params: Params) -> Params:
        """`params`, which every process holds alike, on every device."""
        return jax.tree.map(lambda x: _place(np.asarray(x), self._everywhere), params)

    def encode(
        self,
        sequences: Iterable[Tokens],
        count: int,
        on_progress: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """The embeddings of `count` sequences, (n, D) float32, in the order given.

        On one machine each is the same bit for bit whatever others are given with it, and in
        whatever order. On several hosts every process gives the same sequences and gets all.

        Args:
            sequences: taken as they are needed.
            count: n.
            on_progress: called with the number of sequences that have just been finished.
        """
        embeddings = np.empty((count, self._dimension), np.float32)
        for rows, result in self.run(sequences):
            embeddings[rows] = np.asarray(result)[: len(rows)]
            if on_progress is not None:
                on_progress(len(rows))
        return embeddings

    def run(self, sequences: Iterable[Tokens]) -> Iterator[tuple[list[int], jax.Array]]:
        """The sequences of one batch after another, by their places in what is given, and what
        `embed` makes of them, (B, D), of which rows beyond theirs mean nothing."""
        running: deque[tuple[list[int], jax.Array]] = deque()
        for rows, *arrays in self._batches(sequences):
            # One batch runs while the next is tokenized and packed.
            if len(running) > 1:
                yield running.popleft()
            batch = [_place(array, self._rows) for array in arrays]
            running.append((rows, self.compiled(self.params, *batch)))
        yield from running

    def _batches(self, sequences: Iterable[Tokens]) -> Iterator[_Batch]:
        """One full batch after another; what is left over at the end comes in batches padded to
        the same shape."""
        waiting: dict[int, list[tuple[int, Tokens]]] = {width: [] for width in self.widths}
        for row, sequence in enumerate(sequences):
            width = next(w for w in self.widths if len(sequence.ids) <= w)
            waiting[width].append((row, sequence))
            if len(waiting[width]) == self._batch_rows(width):
                yield self._pack(width, waiting[width])
                waiting[width] = []
        for width, left in waiting.items():
            if left:
                yield self._pack(width, left)

    def _batch_rows(self, width: int) -> int:
        """Rows in a batch of this width, over all devices."""
        tokens = _BATCH_TOKENS.get(self._platform, _BATCH_TOKENS_ELSEWHERE)
        rows = max(1, tokens // width)
        return min(rows, self._most_rows or rows) * self._mesh.size

    def _pack(self, width: int, filled: list[tuple[int, Tokens]]) -> _Batch:
        tokens = np.zeros((self._batch_rows(width), width), np.int32)
        lengths, counted = np.zeros(len(tokens), np.int32), np.zeros(tokens.shape, bool)
        for i, (_, one) in enumerate(filled):
            n = len(one.ids)
            tokens[i, :n], lengths[i] = one.ids, n
            counted[i, :n] = True if one.counted is None else one.counted
        return _Batch([row for row, _ in filled], tokens, lengths, counted)


def first_device() -> Mesh:
    """The mesh of this process's first device alone."""
    return Mesh(np.array(jax.local_devices()[:1]), ("data",))


def _place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """`array`, which every process holds alike, on the devices of `sharding`."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
