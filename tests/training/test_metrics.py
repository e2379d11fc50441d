import json
import struct

import pytest
from tensorboardX.proto import event_pb2

from zsg_jax.runtime.errors import UserError
from zsg_jax.training.metrics import FILE, MetricsLog, data_wait, over_time, read_records


def write(folder, steps, after_step=-1):
    log = MetricsLog(folder, after_step=after_step)
    for step in steps:
        log.write({"step": step, "kind": "train", "loss": step / 2})
    log.close()


def test_rows_come_back_and_later_steps_are_dropped_on_reopening(tmp_path):
    write(tmp_path, range(5))
    assert [row["step"] for row in read_records(tmp_path)] == [0, 1, 2, 3, 4]
    write(tmp_path, [3], after_step=2)
    assert [row["step"] for row in read_records(tmp_path)] == [0, 1, 2, 3]
    write(tmp_path, [0])
    assert [row["step"] for row in read_records(tmp_path)] == [0]


def test_a_last_line_cut_short_is_left_out_and_one_in_the_middle_is_refused(tmp_path):
    write(tmp_path, range(3))
    path = tmp_path / FILE
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert len(read_records(tmp_path)) == whole[:size].count(b"\n")
    for bad in (b'{"step": , "kind": "train"}', b"1", b"{}", b'{"step": "1", "kind": "train"}'):
        lines = whole.split(b"\n")
        path.write_bytes(b"\n".join([lines[0], bad, *lines[2:]]))
        with pytest.raises(UserError, match=r"metrics.jsonl:2: is damaged"):
            read_records(tmp_path)


def scalars(folder):
    """(step, tag) → value of all TensorBoard files in a run's folder."""
    found = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            found |= {(event.step, v.tag): v.simple_value for v in event.summary.value}
            data = data[16 + size :]
    return found


def test_tensorboard_gets_the_numbers(tmp_path):
    log = MetricsLog(tmp_path, after_step=-1)
    log.write({"step": 4, "kind": "test", "loss": 2.5, "loss_by_task": {"a": 3.5}, "losses": [1]})
    log.write({"step": 5, "kind": "train", "loss": 1.5, "order_digest": "x"})
    log.close()
    assert scalars(tmp_path) == {
        (4, "test/loss"): 2.5,
        (4, "test/loss_by_task/a"): 3.5,
        (5, "train/loss"): 1.5,
    }


def test_off_process_0_nothing_is_written(tmp_path):
    log = MetricsLog(tmp_path / "x", after_step=-1, active=False)
    log.write({"step": 1, "kind": "train"})
    log.flush()
    log.close()
    assert not (tmp_path / "x").exists()


def test_no_number_is_written_that_json_does_not_have(tmp_path):
    log = MetricsLog(tmp_path, after_step=-1)
    with pytest.raises(ValueError, match="JSON"):
        log.write({"step": 1, "kind": "train", "loss": float("nan")})
    assert json.loads("[]") == read_records(tmp_path)


def test_the_share_of_waiting_is_of_all_seconds_in_training_steps():
    rows = [
        {"kind": "train", "seconds": 3.0, "data_wait": 1.0},
        {"kind": "test", "seconds": 99.0, "data_wait": 99.0},
        {"kind": "train", "seconds": 1.0, "data_wait": 0.0},
        {"kind": "train", "seconds": 4.0},
    ]
    assert data_wait(rows) == 1 / 8
    assert data_wait([]) == data_wait([{"kind": "train"}]) == 0


def test_a_rate_is_weighed_by_the_seconds_it_held():
    rows = [
        {"kind": "train", "seconds": 3.0, "mfu": 0.2},
        {"kind": "test", "seconds": 50.0, "mfu": 0.9},
        {"kind": "train", "seconds": 1.0, "mfu": 0.6},
        {"kind": "train", "seconds": 7.0},
    ]
    assert over_time(rows, "mfu") == pytest.approx((3 * 0.2 + 1 * 0.6) / 4)
    assert over_time(rows, "memory") is over_time([], "mfu") is None
