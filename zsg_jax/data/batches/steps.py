"""What each step of an arrangement holds: its examples laid into one batch, by the step's number.

Workers import this, so that it needs no JAX.
"""

from typing import Any, NamedTuple

import numpy as np

from zsg_jax.data.batches.packing import Batch, lay_packed, pack, sequence_counts, spread
from zsg_jax.data.tokenize.examples import TokenizedExamples


def sequence_length(longest: int, max_length: int) -> int:
    """Tokens a batch row holds: the longest example, rounded up to a multiple of 16, capped."""
    return min(max_length, -(-longest // 16) * 16)


def lay(examples: TokenizedExamples, rows: np.ndarray, batch_size: int, length: int) -> Batch:
    """Lays examples into one batch, one example a row, empty rows at the end.

    Args:
        examples: token rows, none longer than `length`.
        rows: (n,) indices into `examples`, n ≤ batch_size; -1 is an empty row.

    Returns:
        tokens, positions, segment_ids (batch_size, length) int32, loss_mask (batch_size, length)
        bool, and index (batch_size,) int32: the example in each row, -1 for an empty one. A
        segment id is 1 on real tokens and 0 on padding.
    """
    batch: Batch = {
        "tokens": np.zeros((batch_size, length), np.int32),
        "positions": np.broadcast_to(np.arange(length, dtype=np.int32), (batch_size, length)),
        "segment_ids": np.zeros((batch_size, length), np.int32),
        "loss_mask": np.zeros((batch_size, length), bool),
        "index": np.full(batch_size, -1, np.int32),
    }
    for slot, row in enumerate(rows):
        if row < 0:
            continue
        tokens, mask = examples[row]
        batch["tokens"][slot, : len(tokens)] = tokens
        batch["segment_ids"][slot, : len(tokens)] = 1
        batch["loss_mask"][slot, : len(tokens)] = mask
        batch["index"][slot] = row
    return batch


class SequencesAtOnce(NamedTuple):
    """How the rows of a packed step are divided: over `unit` devices, `at_once` at a time."""

    unit: int
    at_once: int


class Steps:
    """Random access to steps: item s is this process's slice of the batch of step s + 1.

    Attributes:
        order: (n,) int64, the instances in the order of the steps.
        length: tokens a row.
        counts: (steps,) int64, the rows each step computes, on all processes together.
    """

    def __init__(
        self,
        examples: TokenizedExamples,
        order: np.ndarray,
        *,
        batch_size: int,
        length: int,
        process_index: int = 0,
        process_count: int = 1,
        packing: SequencesAtOnce | None = None,
    ) -> None:
        """Takes `order` (n,) int64 rows of `examples`; each step holds the next `batch_size`.

        Args:
            packing: None lays one example a sequence; else as many as fit, into a number of
                sequences that `packing.sequence_counts` allows. Every process works out the same
                from the lengths alone, and takes its part of them.

        Raises:
            ValueError: if the rows do not divide over the processes.
        """
        unit = batch_size if packing is None else packing.unit
        if unit % process_count:
            raise ValueError(f"{unit} rows do not divide over {process_count} processes")
        self._examples, self._lengths = examples, examples.lengths
        self.order, self._batch_size = order, batch_size
        self._process, self._processes = process_index, process_count
        self._packing, self.length = packing, length
        self.counts = np.full(len(self), batch_size, np.int64)
        if packing is not None:
            allowed = np.asarray(sequence_counts(batch_size, packing.unit, packing.at_once))
            needed = [len(self._pack(self._of(step))) for step in range(len(self))]
            self.counts = allowed[np.searchsorted(allowed, needed)]

    def __len__(self) -> int:
        return -(-len(self.order) // self._batch_size)

    def __getitem__(self, step: Any) -> Batch:
        step = int(step)
        index, count = self._of(step), self._laid(step)
        local = count // self._processes
        mine = slice(self._process * local, (self._process + 1) * local)
        if self._packing is None:
            return lay(self._examples, index[mine], local, self.length)
        return lay_packed(
            self._examples,
            index,
            spread(self._pack(index), count, min(count, self._packing.at_once))[mine],
            length=self.length,
            segments=self._batch_size,
        )

    def shapes(self, total: int) -> list[int]:
        """The numbers of rows that the batches of steps 1 to `total` have, ascending."""
        return sorted({self._laid(step) for step in range(total)})

    def fill(self, total: int) -> float:
        """The share of the positions in the rows of steps 1 to `total` that hold a token."""
        tokens = self._lengths[self.order[: total * self._batch_size]].sum()
        return float(tokens / (self.counts[:total].sum() * self.length))

    def _laid(self, step: int) -> int:
        """Rows of the batch of step + 1; what is over those computed is empty."""
        in_parts = self._packing is not None and self._packing.at_once < self._batch_size
        return self._batch_size if in_parts else int(self.counts[step])

    def _of(self, step: int) -> np.ndarray:
        return self.order[step * self._batch_size : (step + 1) * self._batch_size]

    def _pack(self, index: np.ndarray) -> list[list[int]]:
        return pack(self._lengths[index], self.length)
