"""Lays the instances of one step into as few rows as needed, each a segment of its own.

Nothing here moves an instance to another step: what is packed together is decided by the caller.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from zsg_jax.data.tokenize.examples import TokenizedExamples

Batch = dict[str, np.ndarray]


def pack(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the longest first, each into the fullest row that still has room.

    Among instances of one length the earlier comes first, among rows with as much room the one
    begun first. Rows come out in the order of their earliest instance, and a row's instances in
    their own order, so that instances of which no two fit together stay one a row as they came.

    Args:
        lengths: (n,) tokens of each instance, from 1.
        capacity: tokens a row holds.

    Returns:
        The slots that each row holds: the instances' numbers, from 0 to n - 1.

    Raises:
        ValueError: if an instance is longer than a row.
    """
    sizes = [int(length) for length in lengths]
    if sizes and max(sizes) > capacity:
        raise ValueError(f"an instance of {max(sizes)} tokens does not fit a row of {capacity}")
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens free, row), in order
    for slot in sorted(range(len(sizes)), key=lambda slot: -sizes[slot]):
        at = bisect_left(room, (sizes[slot], -1))
        if at == len(room):
            free, row = capacity, len(rows)
            rows.append([])
        else:
            free, row = room.pop(at)
        rows[row].append(slot)
        insort(room, (free - sizes[slot], row))
    return sorted(sorted(row) for row in rows)


def sequence_counts(batch_size: int, unit: int, at_once: int) -> tuple[int, ...]:
    """The numbers of rows that a step may compute, ascending.

    Rows all at once (`at_once` is `batch_size`) make a shape to compile for each number, so these
    are few: multiples of `unit`, four to a doubling (1 to 8, 10, 12, 14, 16, 20, …), so that less
    than a fifth of the rows, or than a unit, stays empty. Otherwise they are whole micro-batches of
    `at_once` rows, of which a step takes as many as it needs, in one shape. The last number holds
    `batch_size` instances one a row.

    Args:
        batch_size: instances a step.
        unit: what the rows must be a multiple of, the devices they are split over.
        at_once: rows of a micro-batch, a multiple of `unit` that divides `batch_size`.
    """
    if at_once < batch_size:
        return tuple(range(at_once, batch_size + 1, at_once))
    most = -(-batch_size // unit)
    counts = [n for n in range(1, most) if n % (1 << max(0, n.bit_length() - 3)) == 0]
    return tuple(n * unit for n in [*counts, most])


def spread(rows: Sequence[list[int]], count: int, at_once: int) -> list[list[int]]:
    """Rows in the order of a batch of `count`, so that the first micro-batches hold them all.

    A step takes every (count / at_once)-th row of a batch into a micro-batch, which leaves each row
    on its device; so rows that follow each other in a micro-batch lie that far apart.
    """
    laid: list[list[int]] = [[] for _ in range(count)]
    stride = count // at_once
    for number, row in enumerate(rows):
        laid[number % at_once * stride + number // at_once] = row
    return laid


def lay_packed(
    examples: TokenizedExamples,
    index: np.ndarray,
    rows: Sequence[Sequence[int]],
    *,
    length: int,
    segments: int,
) -> Batch:
    """Lays examples into one batch, several a row, the ends of rows empty.

    Args:
        examples: token rows.
        index: (n,) the examples of the step, in its order.
        rows: slots in `index` that each row holds, as `pack` gives them, in the order of the
            batch; an empty one makes an empty row.
        length: tokens a row.
        segments: the most examples a row may hold.

    Returns:
        tokens, positions, segment_ids (R, length) int32 and loss_mask (R, length) bool, R the
        number of `rows`; index and slot (R, segments) int32: the example that is segment s + 1 of
        a row, and its slot in the step, -1 where there is none. Positions restart with each
        segment; its first token carries no loss, since nothing of its own comes before it; segment
        id 0 is padding.
    """
    count = len(rows)
    batch: Batch = {
        name: np.zeros((count, length), np.int32) for name in ("tokens", "positions", "segment_ids")
    }
    batch["loss_mask"] = np.zeros((count, length), bool)
    batch |= {name: np.full((count, segments), -1, np.int32) for name in ("index", "slot")}
    for number, slots in enumerate(rows):
        start = 0
        for segment, slot in enumerate(slots):
            tokens, mask = examples[int(index[slot])]
            here = slice(start, start + len(tokens))
            batch["tokens"][number, here] = tokens
            batch["positions"][number, here] = np.arange(len(tokens))
            batch["segment_ids"][number, here] = segment + 1
            batch["loss_mask"][number, here] = mask
            batch["loss_mask"][number, start] = False
            batch["index"][number, segment] = index[slot]
            batch["slot"][number, segment] = slot
            start += len(tokens)
    return batch


def consumed(batch: dict[str, np.ndarray]) -> list[int]:
    """The examples that a batch held, in the order of the step, from its index and slot."""
    index = np.asarray(batch["index"])
    if "slot" not in batch:
        return index[index >= 0].tolist()
    slot = np.asarray(batch["slot"])
    real = slot >= 0
    return index[real][np.argsort(slot[real], kind="stable")].tolist()
