import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.batches.packing import consumed, lay_packed, pack, sequence_counts, spread
from zsg_jax.data.batches.pipeline import Batches
from zsg_jax.data.batches.steps import SequencesAtOnce, Steps
from zsg_jax.data.tokenize.examples import Examples


def examples(lengths, seed=0):
    rng = np.random.default_rng(seed)
    # No token stands twice, so that each can be followed; some carry loss on the first.
    ends = np.cumsum(lengths)
    return Examples(
        [
            (np.arange(end - n + 1, end + 1, dtype=np.int32), rng.random(n) < 0.5)
            for n, end in zip(lengths, ends, strict=True)
        ]
    )


def naive(lengths, capacity):
    """Best-fit decreasing, looking at every row for every instance."""
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


LENGTHS = st.lists(st.integers(1, 30), min_size=0, max_size=40)


@given(LENGTHS)
def test_packing_is_best_fit_decreasing_and_loses_nothing(lengths):
    rows = pack(lengths, 30)
    assert rows == naive(lengths, 30)
    assert sorted(slot for row in rows for slot in row) == list(range(len(lengths)))
    assert all(sum(lengths[slot] for slot in row) <= 30 for row in rows)
    # No two rows would fit into one.
    loads = sorted(sum(lengths[slot] for slot in row) for row in rows)
    assert len(loads) < 2 or loads[0] + loads[1] > 30


def test_instances_of_which_no_two_fit_together_stay_as_they_came():
    assert pack([16, 30, 17, 29, 16], 30) == [[0], [1], [2], [3], [4]]


def test_an_instance_longer_than_a_row_is_no_step():
    with pytest.raises(ValueError, match="31 tokens does not fit a row of 30"):
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
    # Rows 0 to 3 are the first micro-batch of three: every third row of the batch, from the first.
    laid = spread([[0], [1], [2], [3], [4]], 12, 4)
    assert [laid[0], laid[3], laid[6], laid[9]] == [[0], [1], [2], [3]]
    assert laid[1] == [4]
    assert sum(map(bool, laid)) == 5


def test_a_packed_batch_by_hand():
    rows = examples([3, 2, 4])
    rows.loss_mask[:] = [1, 0, 1, 1, 1, 0, 1, 1, 0]
    batch = lay_packed(rows, np.asarray([2, 0, 1]), [[1, 2], [], [0]], length=6, segments=3)
    assert batch["tokens"].tolist() == [[1, 2, 3, 4, 5, 0], [0] * 6, [6, 7, 8, 9, 0, 0]]
    assert batch["positions"].tolist() == [[0, 1, 2, 0, 1, 0], [0] * 6, [0, 1, 2, 3, 0, 0]]
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 2, 2, 0], [0] * 6, [1, 1, 1, 1, 0, 0]]
    # Tokens 1 and 4 begin a segment: nothing of their own comes before them.
    assert batch["loss_mask"].tolist() == [
        [False, False, True, False, True, False],
        [False] * 6,
        [False, True, True, False, False, False],
    ]
    assert batch["index"].tolist() == [[0, 1, -1], [-1] * 3, [2, -1, -1]]
    assert batch["slot"].tolist() == [[1, 2, -1], [-1] * 3, [0, -1, -1]]
    assert consumed(batch) == [2, 0, 1]
    assert consumed({"index": np.asarray([4, 1, -1])}) == [4, 1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=50),
    st.sampled_from([(1, 1), (1, 2), (1, 8), (2, 2), (2, 4), (4, 8), (4, 4), (8, 8)]),
    st.sampled_from([1, 2]),
    st.integers(0, 2**32 - 1),
)
def test_every_token_is_met_once_in_its_step_on_every_process(lengths, rows, hosts, seed):
    unit, at_once = rows
    if unit % hosts:
        hosts = 1
    rng = np.random.default_rng(seed)
    data = examples(lengths, seed % 1000)
    order = rng.permutation(len(lengths))[: rng.integers(1, len(lengths) + 1)]
    shared = {"batch_size": 8, "length": 20, "packing": SequencesAtOnce(unit, at_once)}
    seen = []
    for host in range(hosts):
        steps = Steps(data, order, process_index=host, process_count=hosts, **shared)
        # Stopped anywhere and gone on: the same batches.
        first, stop = Batches(steps), int(rng.integers(0, len(steps) + 1))
        got = [next(first) for _ in range(stop)]
        again = Batches(steps)
        again.set_state(first.get_state())
        seen.append(got + list(again))
    real = computed = 0
    for number, locals_ in enumerate(zip(*seen, strict=True)):
        batch = {name: np.concatenate([part[name] for part in locals_]) for name in locals_[0]}
        expected = order[8 * number : 8 * number + 8]
        assert consumed(batch) == expected.tolist()
        assert len(batch["tokens"]) in steps.shapes(len(steps))
        found = {}
        for row in range(len(batch["tokens"])):
            ids = batch["segment_ids"][row]
            last = ids.max()
            # Segments 1, 2, … stand one after the other, then padding; no row is overfull.
            assert ids[ids > 0].tolist() == sorted(ids[ids > 0])
            assert (ids[np.count_nonzero(ids) :] == 0).all()
            assert (batch["index"][row] >= 0).sum() == last
            for segment in range(1, last + 1):
                here = ids == segment
                example = batch["index"][row, segment - 1]
                found[example] = found.get(example, 0) + 1
                tokens, mask = data[example]
                assert batch["tokens"][row, here].tolist() == tokens.tolist()
                assert batch["positions"][row, here].tolist() == list(range(len(tokens)))
                assert batch["loss_mask"][row, here].tolist() == [False, *mask[1:].tolist()]
            assert not batch["loss_mask"][row, ids == 0].any()
        assert found == dict.fromkeys(expected, 1)
        # The first micro-batches hold them all, as many from every device.
        parts = max(1, 8 // at_once) if at_once < 8 else 1
        used = (batch["segment_ids"] != 0).reshape(-1, parts, 20).any((0, 2))
        assert used.tolist() == sorted(used, reverse=True)
        count = used.sum() * len(batch["tokens"]) // parts
        assert count == steps.counts[number]
        assert count % unit == 0
        real += sum(lengths[row] for row in expected)
        computed += count * 20
    assert steps.fill(len(steps)) == pytest.approx(real / computed)
    # Whatever the lengths, one shape where rows are taken in parts, else as the table of counts.
    assert set(steps.shapes(len(steps))) <= (
        {8} if at_once < 8 else set(sequence_counts(8, unit, 8))
    )


def test_rows_that_do_not_divide_over_processes_are_refused():
    with pytest.raises(ValueError, match="1 rows do not divide over 2 processes"):
        Steps(
            examples([3]),
            np.asarray([0]),
            batch_size=4,
            length=8,
            process_count=2,
            packing=SequencesAtOnce(1, 4),
        )
