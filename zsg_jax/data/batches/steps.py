"""What each step of an arrangement holds: its examples laid into one batch, by the step's number.

Workers import this, so that it needs no JAX.
"""

from typing import Any, NamedTuple

import numpy as np

from zsg_jax.data.batches.packing import Batch, lay_packed, pack, sequence_counts, spread
from zsg_jax.data.tokenize.examples import TokenizedExamples


def sequence_length(longest: int, max_length: int) -> int:
    """Tokens a sequence of a batch holds: the longest example, rounded up to 16s, capped."""
    return min(max_length, -(-longest // 16) * 16)


def lay(examples: TokenizedExamples, index: np.ndarray, size: int, length: int) -> Batch:
    """Lays examples into one batch, one a sequence, empty sequences at the end.

    Args:
        examples: none longer than `length`.
        index: (n,) into `examples`, n ≤ size; -1 is an empty sequence.

    Returns:
        As `lay_packed`, without `slot`, and index (size,) int32, -1 for an empty sequence.
    """
    sequences = [[slot] if one >= 0 else [] for slot, one in enumerate(index)]
    sequences += [[] for _ in range(size - len(index))]
    batch = lay_packed(examples, index, sequences, length=length, segments=1)
    del batch["slot"]
    return batch | {"index": batch["index"][:, 0]}


class SequencesAtOnce(NamedTuple):
    """How the sequences of a packed step are divided: over `unit` devices, `at_once` at a time."""

    unit: int
    at_once: int


class Steps:
    """Random access to steps: item s is this process's slice of the batch of step s + 1.

    Attributes:
        order: (n,) int64, the instances in the order of the steps.
        length: tokens a sequence.
        counts: (steps,) int64, the sequences each step computes, on all processes together.
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
        """Takes `order` (n,) int64, indices into `examples`; each step holds the next `batch_size`.

        Args:
            packing: None lays one example a sequence; else as many as fit, into a number of
                sequences that `packing.sequence_counts` allows. Every process works out the same
                from the lengths alone, and takes its part of them.

        Raises:
            ValueError: if the sequences do not divide over the processes.
        """
        unit = batch_size if packing is None else packing.unit
        if unit % process_count:
            raise ValueError(f"{unit} sequences do not divide over {process_count} processes")
        self._examples, self._lengths = examples, examples.lengths
        self.order, self._batch_size = order, batch_size
        self._process, self._processes = process_index, process_count
        self._packing, self.length = packing, length
        self.counts = np.full(len(self), batch_size, np.int64)
        if packing is not None:
            allowed = np.asarray(sequence_counts(batch_size, packing.unit, packing.at_once))
            needed = [len(self._pack(self.listed(step))) for step in range(len(self))]
            self.counts = allowed[np.searchsorted(allowed, needed)]

    def __len__(self) -> int:
        return -(-len(self.order) // self._batch_size)

    def __getitem__(self, step: Any) -> Batch:
        step = int(step)
        index, count = self.listed(step), self._laid(step)
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

    def listed(self, step: int) -> np.ndarray:
        """The instances of step + 1, as the arrangement lists them."""
        return self.order[step * self._batch_size : (step + 1) * self._batch_size]

    def shapes(self, total: int) -> list[int]:
        """The numbers of sequences that the batches of steps 1 to `total` have, ascending."""
        return sorted({self._laid(step) for step in range(total)})

    def fill(self, total: int) -> float:
        """The share of the positions in the sequences of steps 1 to `total` that hold a token."""
        tokens = self._lengths[self.order[: total * self._batch_size]].sum()
        return float(tokens / (self.counts[:total].sum() * self.length))

    def _laid(self, step: int) -> int:
        """Rows of the batch of step + 1; what is over those computed is empty."""
        in_parts = self._packing is not None and self._packing.at_once < self._batch_size
        return self._batch_size if in_parts else int(self.counts[step])

    def _pack(self, index: np.ndarray) -> list[list[int]]:
        return pack(self._lengths[index], self.length)
