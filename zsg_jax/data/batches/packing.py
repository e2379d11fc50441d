"""Lays the instances of one step into as few sequences as needed, each a segment of its own.

Nothing here moves an instance to another step: what is packed together is decided by the caller.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from zsg_jax.data.tokenize.examples import TokenizedExamples

Batch = dict[str, np.ndarray]


def pack(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the longest first, each into the fullest sequence that still has room.

    Among instances of one length the earlier comes first, among sequences with as much room the
    one begun first. Sequences come out in the order of their earliest instance, their instances in
    their own order, so that instances of which no two fit together stay as they came.

    Args:
        lengths: (n,) tokens of each instance, from 1.
        capacity: tokens a sequence holds.

    Returns:
        The slots that each sequence holds: the instances' numbers, from 0 to n - 1.

    Raises:
        ValueError: if an instance is longer than a sequence.
    """
    sizes = [int(length) for length in lengths]
    if sizes and max(sizes) > capacity:
        raise ValueError(
            f"an instance of {max(sizes)} tokens does not fit a sequence of {capacity}"
        )
    sequences: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens free, sequence), in order
    for slot in sorted(range(len(sizes)), key=lambda slot: -sizes[slot]):
        at = bisect_left(room, (sizes[slot], -1))
        if at == len(room):
            free, sequence = capacity, len(sequences)
            sequences.append([])
        else:
            free, sequence = room.pop(at)
        sequences[sequence].append(slot)
        insort(room, (free - sizes[slot], sequence))
    return sorted(sorted(sequence) for sequence in sequences)


def sequence_counts(batch_size: int, unit: int, at_once: int) -> tuple[int, ...]:
    """The numbers of sequences that a step may compute, ascending.

    Sequences all at once (`at_once` is `batch_size`) make a shape to compile for each number, so
    these are few: multiples of `unit`, four to a doubling (1 to 8, 10, 12, 14, 16, 20, …), so that
    less than a fifth of them, or than a unit, stays empty. Otherwise they are whole micro-batches
    of `at_once` sequences, of which a step takes as many as it needs, in one shape. The last number
    holds `batch_size` instances one a sequence.

    Args:
        batch_size: instances a step.
        unit: what the sequences must be a multiple of, the devices they are split over.
        at_once: sequences of a micro-batch, a multiple of `unit` that divides `batch_size`.
    """
    if at_once < batch_size:
        return tuple(range(at_once, batch_size + 1, at_once))
    most = -(-batch_size // unit)
    counts = [n for n in range(1, most) if n % (1 << max(0, n.bit_length() - 3)) == 0]
    return tuple(n * unit for n in [*counts, most])


def spread(sequences: Sequence[list[int]], count: int, at_once: int) -> list[list[int]]:
    """Sequences as a batch of `count` has them, so that the first micro-batches hold them all.

    A step takes every (count / at_once)-th sequence of a batch into a micro-batch, which leaves
    each on its device; so those that follow each other in a micro-batch lie that far apart.
    """
    laid: list[list[int]] = [[] for _ in range(count)]
    stride = count // at_once
    for number, sequence in enumerate(sequences):
        laid[number % at_once * stride + number // at_once] = sequence
    return laid


def lay_packed(
    examples: TokenizedExamples,
    index: np.ndarray,
    sequences: Sequence[Sequence[int]],
    *,
    length: int,
    segments: int,
) -> Batch:
    """Lays examples into one batch, several a sequence, the ends of sequences empty.

    Args:
        index: (n,) the examples of the step, in its order.
        sequences: slots in `index` that each sequence holds, as `pack` gives them, in the order of
            the batch; an empty one holds none.
        length: tokens a sequence.
        segments: the most examples a sequence may hold.

    Returns:
        tokens, positions, segment_ids (R, length) int32 and loss_mask (R, length) bool, R the
        number of `sequences`; index and slot (R, segments) int32: the example that is segment s + 1
        of a sequence, and its slot in the step, -1 where there is none. Positions restart with each
        segment; its first token carries no loss, since nothing of its own comes before it; segment
        id 0 is padding.
    """
    count = len(sequences)
    batch: Batch = {
        name: np.zeros((count, length), np.int32) for name in ("tokens", "positions", "segment_ids")
    }
    batch["loss_mask"] = np.zeros((count, length), bool)
    batch |= {name: np.full((count, segments), -1, np.int32) for name in ("index", "slot")}
    for number, slots in enumerate(sequences):
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
