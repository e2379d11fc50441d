"""Arrangement to batches: a grain pipeline whose step s holds exactly the rows listed for it."""

from typing import Any

import grain
import numpy as np

from zsg_jax.data.prompts import Examples

Batch = dict[str, np.ndarray]


def row_length(longest: int, max_length: int) -> int:
    """Tokens a batch row holds: the longest example, rounded up to a multiple of 16, capped."""
    return min(max_length, -(-longest // 16) * 16)


def lay(examples: Examples, rows: np.ndarray, batch_size: int, length: int) -> Batch:
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
    for place, row in enumerate(rows):
        if row < 0:
            continue
        tokens, mask = examples[row]
        batch["tokens"][place, : len(tokens)] = tokens
        batch["segment_ids"][place, : len(tokens)] = 1
        batch["loss_mask"][place, : len(tokens)] = mask
        batch["index"][place] = row
    return batch


class Steps:
    """Random access to steps: item s is this process's slice of the batch of step s + 1."""

    def __init__(
        self,
        examples: Examples,
        order: np.ndarray,
        *,
        batch_size: int,
        length: int,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        """Takes `order` (n,) int64 rows of `examples`; each step holds the next `batch_size`.

        Raises:
            ValueError: if `batch_size` does not divide over the processes.
        """
        if batch_size % process_count:
            raise ValueError(f"batch_size={batch_size} does not divide over {process_count}")
        self._examples = examples
        self._order = order
        self._batch_size = batch_size
        self._length = length
        self._local = batch_size // process_count
        self._offset = process_index * self._local

    def __len__(self) -> int:
        return -(-len(self._order) // self._batch_size)

    def __getitem__(self, step: Any) -> Batch:
        first = int(step) * self._batch_size
        rows = self._order[first : first + self._batch_size]
        local = rows[self._offset : self._offset + self._local]
        return lay(self._examples, local, self._local, self._length)


def batches(steps: Steps, *, threads: int = 1, buffer: int = 8) -> grain.DatasetIterator:
    """Iterates over `steps` in order; `get_state` and `set_state` hold the position.

    The iterator's state counts the batches handed out, not those read ahead, so a position saved
    after step s goes on at step s + 1 whatever the threads and the buffer.
    """
    dataset = grain.MapDataset.source(steps).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
    )
    return iter(dataset)
