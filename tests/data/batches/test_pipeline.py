import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.data.batches.pipeline import Batches
from zsg_jax.data.batches.steps import Steps, sequence_length
from zsg_jax.data.tokenize.examples import Examples


def examples(lengths, kind=Examples):
    return kind(
        [(np.full(n, row + 1, np.int32), np.arange(n) >= n // 2) for row, n in enumerate(lengths)]
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_every_step_holds_its_rows_on_every_process_and_after_a_resume(n, hosts, threads, seed):
    rng = np.random.default_rng(seed)
    rows = examples(rng.integers(1, 20, n))
    order = rng.permutation(n)[: rng.integers(1, n + 1)]
    seen = []
    for host in range(hosts):
        steps = Steps(rows, order, batch_size=4, length=20, process_index=host, process_count=hosts)
        stop = int(rng.integers(0, len(steps) + 1))
        first = Batches(steps, threads=threads)
        got = [next(first) for _ in range(stop)]
        again = Batches(steps, threads=threads)
        again.set_state(first.get_state())
        got += list(again)
        assert len(got) == -(-len(order) // 4)
        seen.append(got)
    for step, parts in enumerate(zip(*seen, strict=True)):
        index = np.concatenate([part["index"] for part in parts])
        expected = order[4 * step : 4 * step + 4]
        assert index.tolist() == expected.tolist() + [-1] * (4 - len(expected))
        for part in parts:
            for place, row in enumerate(part["index"]):
                size = 0 if row < 0 else rows.lengths[row]
                assert (part["tokens"][place, :size] == row + 1).all()
                assert (part["segment_ids"][place] == (np.arange(20) < size)).all()
                assert part["loss_mask"][place].sum() == (0 if row < 0 else rows[row][1].sum())


def test_rows_are_no_longer_than_the_data_asks():
    assert sequence_length(1, 512) == 16
    assert sequence_length(17, 512) == 32
    assert sequence_length(510, 500) == 500


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="do not divide"):
        Steps(examples([3]), np.asarray([0]), batch_size=4, length=8, process_count=3)


def test_a_process_reads_no_tokens_but_those_of_its_own_rows():
    class Spied(Examples):
        def __getitem__(self, row):
            read[host].append(int(row))
            return super().__getitem__(row)

    rows = examples([5] * 40, Spied)
    order = np.random.default_rng(0).permutation(40)
    read = {}
    for host in range(4):
        read[host] = []
        steps = Steps(rows, order, batch_size=8, length=16, process_index=host, process_count=4)
        for step in range(len(steps)):
            steps[step]
    own = {host: order.reshape(5, 4, 2)[:, host].ravel().tolist() for host in range(4)}
    assert read == own
