import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.data.batches.packing import consumed, lay_packed, pack, sequence_counts, spread
from zsg_jax.data.tokenize.examples import Examples


def naive(lengths, capacity):
    """Best-fit decreasing, looking at every sequence for every instance."""
    rows = []
    for slot in sorted(range(len(lengths)), key=lambda slot: (-lengths[slot], slot)):
        best = None
        for number, row in enumerate(rows):
            free = capacity - sum(lengths[other] for other in row)
            if free >= lengths[slot] and (best is None or free < best[0]):
                best = free, number
        if best is None:
            rows.append([slot])
        else:
            rows[best[1]].append(slot)
    return sorted(sorted(row) for row in rows)


@given(st.lists(st.integers(1, 30), max_size=40))
def test_packing_is_best_fit_decreasing_and_loses_nothing(lengths):
    rows = pack(lengths, 30)
    assert rows == naive(lengths, 30)
    assert sorted(slot for row in rows for slot in row) == list(range(len(lengths)))
    # No two would fit into one.
    loads = sorted(sum(lengths[slot] for slot in row) for row in rows)
    assert max(loads, default=0) <= 30
    assert len(loads) < 2 or loads[0] + loads[1] > 30


def test_an_instance_longer_than_a_sequence_is_no_step():
    with pytest.raises(ValueError, match="31 tokens does not fit a sequence of 30"):
        pack([3, 31], 30)


@given(st.integers(1, 300), st.integers(1, 9))
def test_shapes_are_few_and_waste_little(batch_size, unit):
    counts = sequence_counts(batch_size, unit, batch_size)
    assert all(count % unit == 0 for count in counts)
    assert list(counts) == sorted(set(counts))
    assert len(counts) <= 4 + 4 * np.log2(max(1, batch_size / unit))
    assert batch_size <= counts[-1] < batch_size + unit
    for needed in range(1, batch_size + 1):
        chosen = next(count for count in counts if count >= needed)
        assert chosen - needed < unit or (chosen - needed) / chosen < 0.2 + unit / chosen


def test_micro_batches_are_taken_as_many_as_needed_in_one_shape():
    assert sequence_counts(12, 2, 4) == (4, 8, 12)
    # 0 to 3 are the first micro-batch of three: every third of the batch, from the first.
    laid = spread([[0], [1], [2], [3], [4]], 12, 4)
    assert [laid[0], laid[3], laid[6], laid[9]] == [[0], [1], [2], [3]]
    assert laid[1] == [4]
    assert sum(map(bool, laid)) == 5


def test_a_packed_batch_by_hand():
    parts = [([1, 2, 3], [1, 0, 1]), ([4, 5], [1, 1]), ([6, 7, 8, 9], [0, 1, 1, 0])]
    data = Examples([(np.asarray(a, np.int32), np.asarray(b, bool)) for a, b in parts])
    batch = lay_packed(data, np.asarray([2, 0, 1]), [[1, 2], [], [0]], length=6, segments=3)
    assert batch["tokens"].tolist() == [[1, 2, 3, 4, 5, 0], [0] * 6, [6, 7, 8, 9, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 0], [0] * 6, [0, 1, 2, 3, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 2, 2, 0], [0] * 6, [1, 1, 1, 1, 0, 0]]
    # Tokens 1 and 4 begin a segment: nothing of their own comes before them.
    assert [np.flatnonzero(mask).tolist() for mask in batch["loss_mask"]] == [[2, 4], [], [1, 2]]
    assert batch["index"].tolist() == [[0, 1, -1], [-1] * 3, [2, -1, -1]]
    assert batch["slot"].tolist() == [[1, 2, -1], [-1] * 3, [0, -1, -1]]
    assert consumed(batch) == [2, 0, 1]
    assert consumed({"index": np.asarray([4, 1, -1])}) == [4, 1]
