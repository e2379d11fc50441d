"""The batch of every step, one example a sequence or packed, on every process, resumed anywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.batches.packing import consumed, sequence_counts
from zsg_jax.data.batches.pipeline import Batches
from zsg_jax.data.batches.steps import SequencesAtOnce, Steps, sequence_length
from zsg_jax.data.tokenize.examples import Examples

PACKINGS = [(1, 1), (1, 2), (1, 8), (2, 2), (2, 4), (4, 8), (4, 4), (8, 8)]


def examples(lengths, kind=Examples):
    """No token stands twice, so that each can be followed; some carry loss on the first."""
    rng, ends = np.random.default_rng(sum(lengths)), np.cumsum(lengths)
    return kind(
        [
            (np.arange(end - n + 1, end + 1, dtype=np.int32), rng.random(n) < 0.5)
            for n, end in zip(lengths, ends, strict=True)
        ]
    )


@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=50),
    st.none() | st.sampled_from(PACKINGS).map(lambda numbers: SequencesAtOnce(*numbers)),
    st.sampled_from([1, 2]),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_every_token_is_met_once_in_its_step_on_every_process(
    lengths, packing, hosts, threads, seed
):
    unit, at_once = packing or (8, 8)
    hosts = 1 if unit % hosts else hosts
    rng, data = np.random.default_rng(seed), examples(lengths)
    order = rng.permutation(len(lengths))[: rng.integers(1, len(lengths) + 1)]
    seen = []
    for host in range(hosts):
        shared = {"batch_size": 8, "length": 20, "packing": packing, "process_count": hosts}
        steps = Steps(data, order, process_index=host, **shared)
        # Stopped anywhere and gone on: the same batches.
        first, stop = Batches(steps, threads=threads), int(rng.integers(0, len(steps) + 1))
        got = [next(first) for _ in range(stop)]
        again = Batches(steps, threads=threads)
        again.set_state(first.get_state())
        seen.append(got + list(again))
    real = computed = 0
    for number, parts in enumerate(zip(*seen, strict=True)):
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        expected = order[8 * number : 8 * number + 8]
        assert consumed(batch) == expected.tolist()
        assert len(batch["tokens"]) in steps.shapes(len(steps))
        check_segments(data, batch, expected)
        # The first micro-batches hold them all, as many from every device.
        micro = 8 // at_once
        used = (batch["segment_ids"] != 0).reshape(-1, micro, 20).any((0, 2))
        assert used.tolist() == sorted(used, reverse=True)
        count = used.sum() * len(batch["tokens"]) // micro
        assert count == steps.counts[number]
        assert count % unit == 0
        real += sum(lengths[row] for row in expected)
        computed += count * 20
    assert steps.fill(len(steps)) == pytest.approx(real / computed)
    # Whatever the lengths, one shape where sequences are taken in parts, else as told by counts.
    allowed = {8} if packing is None or at_once < 8 else set(sequence_counts(8, unit, 8))
    assert set(steps.shapes(len(steps))) <= allowed


def check_segments(data, batch, expected):
    """Every sequence holds segments 1, 2, … of whole examples, then padding."""
    found = {}
    for row, ids in enumerate(batch["segment_ids"]):
        index = np.atleast_1d(batch["index"][row])
        assert (index >= 0).sum() == ids.max()
        start = 0
        for segment, example in enumerate(index[index >= 0], 1):
            tokens, mask = data[example]
            here = slice(start, start := start + len(tokens))
            assert (ids[here] == segment).all()
            assert batch["tokens"][row, here].tolist() == tokens.tolist()
            assert batch["positions"][row, here].tolist() == list(range(len(tokens)))
            assert batch["loss_mask"][row, here].tolist() == [False, *mask[1:].tolist()]
            found[example] = found.get(example, 0) + 1
        assert not ids[start:].any()
        assert not batch["loss_mask"][row, start:].any()
    assert found == dict.fromkeys(expected, 1)


def test_where_no_two_instances_fit_one_sequence_packing_changes_nothing():
    data, order = examples([9, 16, 12, 10] * 3), np.arange(12)
    plain, packed = (
        Steps(data, order, batch_size=4, length=16, packing=packing)
        for packing in (None, SequencesAtOnce(1, 4))
    )
    for step in range(3):
        for name in ("tokens", "positions", "segment_ids", "loss_mask"):
            np.testing.assert_array_equal(plain[step][name], packed[step][name])


def test_sequences_are_no_longer_than_the_data_asks():
    assert [sequence_length(*case) for case in ((1, 512), (17, 512), (510, 500))] == [16, 32, 500]


@pytest.mark.parametrize(("packing", "unit"), [(None, 4), (SequencesAtOnce(1, 4), 1)])
def test_sequences_that_do_not_divide_over_processes_are_refused(packing, unit):
    with pytest.raises(ValueError, match=f"{unit} sequences do not divide over 3 processes"):
        Steps(
            examples([3]),
            np.zeros(1, int),
            batch_size=4,
            length=8,
            process_count=3,
            packing=packing,
        )


def test_a_process_reads_no_tokens_but_those_of_its_own_sequences():
    class Spied(Examples):
        def __getitem__(self, row):
            read[host].append(int(row))
            return super().__getitem__(row)

    data, read = examples([5] * 40, Spied), {}
    order = np.random.default_rng(0).permutation(40)
    for host in range(4):
        read[host] = []
        steps = Steps(data, order, batch_size=8, length=16, process_index=host, process_count=4)
        for step in range(len(steps)):
            steps[step]
    own = {host: order.reshape(5, 4, 2)[:, host].ravel().tolist() for host in range(4)}
    assert read == own
