"""TensorBoard is beside the study, which neither ends nor waits, whatever happens to its file."""

import errno
import time

import pytest

from zsg_jax.training.loggers import Logging, open_loggers
from zsg_jax.training.metrics import MetricsLog, read_records


def rows(count):
    return [{"step": step, "kind": "train", "loss": step / 2} for step in range(count)]


@pytest.mark.parametrize("name", ["write_event", "flush", "close", "__init__"])
def test_what_fails_is_told_once_and_left_out(tmp_path, monkeypatch, capsys, name):
    from tensorboardX.event_file_writer import EventsWriter

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventsWriter, name, full)
    log = MetricsLog(tmp_path, after_step=-1)
    for row in rows(30):
        log.write(row)
        log.flush()
    log.close()
    assert read_records(tmp_path) == rows(30)
    (told,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in told
    assert str(tmp_path / "tensorboard") in told


def test_a_folder_that_cannot_be_made_is_left_out(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("a file")
    (board,) = open_loggers(Logging(), tmp_path, -1)
    for row in rows(30):
        board.write(row)
    board.close()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_clock_that_goes_back_stops_nothing(tmp_path, monkeypatch):
    (board,) = open_loggers(Logging(), tmp_path, -1)
    board.write(rows(1)[0])
    now = time.time() - 30 * 86400
    monkeypatch.setattr(time, "time", lambda: now)
    for row in rows(30):
        board.write(row)
    board.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert path.stat().st_size > 30 * 30
