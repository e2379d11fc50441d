"""SIGTERM: at once where nothing is lost by it, after the step at work where something is."""

import gc
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from zsg_jax.runtime import signals as stopping
from zsg_jax.runtime.ballot import Ballot
from zsg_jax.training import loop
from zsg_jax.workflows import study


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    known = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(stopping, "_asked", False)
    monkeypatch.setattr(stopping, "_agreed", False)
    monkeypatch.setattr(stopping, "_heard", signal.SIGTERM)
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stopping.listen()
    yield
    for number, handler in known.items():
        signal.signal(number, handler)
    signal.signal(signal.SIGINT, interrupted)


def hear(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def test_ctrl_c_is_pythons_own_but_where_it_is_deferred():
    with pytest.raises(KeyboardInterrupt) as stopped:
        hear(signal.SIGINT)
    assert not isinstance(stopped.value, stopping.Terminated)


def test_it_raises_at_once_and_only_once():
    with pytest.raises(stopping.Terminated):
        hear()
    hear()  # a scheduler may repeat itself while the process is on its way out


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGTERM, stopping.Terminated), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_callback_that_drops_what_is_raised_in_it_does_not_hide_it(number, raised):
    """As JAX has one for Python's collections of garbage."""
    heard = []

    def callback(phase, info):
        if not heard:
            heard.append(phase)
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    gc.callbacks.append(callback)

    def work():
        gc.collect()
        time.sleep(1)

    try:
        with pytest.raises(raised):
            work()
    finally:
        gc.callbacks.remove(callback)
    assert heard


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_it_waits_for_the_end_of_what_defers_it(number):
    done = []

    def work():
        with stopping.deferred():
            hear(number)
            done.append("all of it")

    with pytest.raises(stopping.Terminated) as stopped:
        work()
    assert done
    assert not stopped.value.everywhere
    assert stopping.heard() == number


def test_under_nohup_the_end_of_a_terminal_is_none():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopping.listen()
    hear(signal.SIGHUP)
    assert not stopping.asked()


def test_a_mistake_is_told_rather_than_the_signal():
    def work():
        with stopping.deferred():
            hear()
            raise ValueError("mistake")

    with pytest.raises(ValueError, match="mistake"):
        work()


def test_a_vote_counts_what_was_heard_before_it():
    ballot = Ballot(Mesh(np.asarray(jax.devices()[:1]), ("data",)))

    def votes():
        with stopping.deferred():
            ballot.cast()
            hear()
            told.append(ballot.stops())
            ballot.cast()
            told.append(ballot.stops())

    told = []
    with pytest.raises(stopping.Terminated) as stopped:
        votes()
    assert told == [False, True]
    assert stopped.value.everywhere


DEAF = """
import hashlib, signal
from zsg_jax.runtime import cli as command_line, signals as stopping
stopping.PATIENCE = 0.2
stopping.listen(command_line.end_by)
print("now", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)  # one call, minutes long, as a compile is
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_main_thread_that_does_not_hear_is_ended_all_the_same(number):
    child = subprocess.Popen(
        [sys.executable, "-c", DEAF], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "now\n"
    time.sleep(0.5)
    child.send_signal(number)
    _, told = child.communicate(timeout=20)
    assert child.returncode == 128 + number
    assert told.startswith(f"zsg_jax: ended by {number.name}; the same command goes on")


@pytest.mark.parametrize(
    ("at", "number"),
    [(2, signal.SIGINT), *(pytest.param(at, 15, marks=pytest.mark.slow) for at in (2, 10))],
)
def test_a_run_saves_the_step_at_work_and_goes_on_from_it(
    finished, small_config, read_metrics, tmp_path, monkeypatch, at, number
):
    config = small_config(**{"training.checkpoint_every": 100})
    settled = loop.consumed

    def heard(taken):
        nonlocal left
        left -= 1
        if left == 0:
            hear(number)
        return settled(taken)

    # The row of step `at` is written while the next one is at work.
    left = at
    monkeypatch.setattr(loop, "consumed", heard)
    with pytest.raises(stopping.Terminated) as stopped:
        study.run(config, tmp_path / "stopped", command="test")
    assert stopped.value.everywhere == (at < 10)
    run = tmp_path / "stopped" / "runs" / "tmta-nft-seed0"
    expected = read_metrics(finished / "runs" / "tmta-nft-seed0")
    rows = read_metrics(run)
    assert rows == expected[: len(rows)]
    (kept,) = (int(path.name) for path in (run / "checkpoints").iterdir())
    assert kept == max(row["step"] for row in rows)
    assert kept == min(at + 2, 10)
    monkeypatch.setattr(loop, "consumed", settled)
    monkeypatch.setattr(stopping, "_asked", False)
    monkeypatch.setattr(stopping, "_agreed", False)
    study.run(config, tmp_path / "stopped", command="test")
    assert read_metrics(run) == expected


DEFERRING = """
import sys, threading, time
from zsg_jax.runtime import cli as command_line, signals as stopping
stopping.LONGEST = float(sys.argv[1])
stopping.listen(command_line.end_by, lambda: print("heard", flush=True))
with stopping.deferred():
    print("now", flush=True)
    threading.Event().wait()  # for ever, as for a thread that has died
"""


@pytest.mark.parametrize(("longest", "signals"), [(1, [0]), (60, [0, 0.05, 0.9])])
def test_what_defers_the_end_does_not_do_so_for_ever(longest, signals):
    child = subprocess.Popen(
        [sys.executable, "-c", DEFERRING, str(longest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "now\n"
    for wait in signals:
        time.sleep(wait)
        assert child.poll() is None  # the second came with the first
        child.send_signal(signal.SIGTERM)
    heard, told = child.communicate(timeout=20)
    assert heard == "heard\n"
    assert child.returncode == 128 + signal.SIGTERM
    assert told.startswith("zsg_jax: ended by SIGTERM; the same command goes on")
