"""Batches from worker processes: the same, in order, resumed anywhere; and the processes end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.data.batches.packing import consumed
from zsg_jax.data.batches.pipeline import Batches
from zsg_jax.data.batches.steps import SequencesAtOnce, Steps
from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.examples import StoredExamples
from zsg_jax.data.tokenize.store import store
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.runtime.errors import UserError

LETTERS = [3, 40, 11, 25, 7, 18, 30, 2, 9, 33, 21, 5, 14, 28, 1, 36, 12]


@pytest.fixture
def stored(tmp_path):
    rows = [
        Instance(str(n), "t", (Turn("user", "x" * size), Turn("assistant", chr(97 + n))), ("",))
        for n, size in enumerate(LETTERS)
    ]
    store(from_list(rows), ByteTokenizer(), 80, tmp_path / "tokens", shard_rows=5)
    return StoredExamples(tmp_path / "tokens")


def written(row):
    """The tokens of a row, by hand."""
    text = f"User: {'x' * LETTERS[row]}\nAssistant: {chr(97 + row)}"
    return [256, *text.encode(), 257]


ORDER = [5, 0, 16, 3, 9, 12, 1, 8, 2, 15, 7, 4, 11, 14, 6, 13, 10]


def check(number, batch):
    expected = ORDER[4 * number : 4 * number + 4]
    assert consumed(batch) == expected
    found = {}
    for row in range(len(batch["tokens"])):
        for segment in range(1, batch["segment_ids"][row].max() + 1):
            here = batch["segment_ids"][row] == segment
            index = batch["index"][row, segment - 1] if "slot" in batch else batch["index"][row]
            found[int(index)] = batch["tokens"][row, here].tolist()
            assert batch["positions"][row, here].tolist() == list(range(here.sum()))
            # The answer's letter and the eos that closes it; the space before it is the form's.
            assert batch["loss_mask"][row, here].tolist()[-3:] == [False, True, True]
            assert not batch["loss_mask"][row, here][:-2].any()
    assert found == {row: written(row) for row in expected}


@pytest.mark.parametrize(
    ("workers", "stops", "packing"),
    [
        ((2, 1, 0), (1, 3), SequencesAtOnce(1, 4)),
        pytest.param((1, 2, 3), (2, 4), None, marks=pytest.mark.slow),
        pytest.param((0, 2, 1), (3, 5), SequencesAtOnce(1, 2), marks=pytest.mark.slow),
    ],
)
def test_any_number_of_workers_goes_on_from_any_step_of_any_other(stored, packing, workers, stops):
    steps = Steps(stored, np.asarray(ORDER), batch_size=4, length=64, packing=packing)
    state, number = {"next_index": 0}, 0
    for count, stop in zip(workers, (*stops, 99), strict=True):
        batches = Batches(steps, workers=count)
        batches.set_state(json.loads(json.dumps(state)))
        for batch in batches:
            check(number, batch)
            number += 1
            if number == stop:
                break
        state = batches.get_state()
        assert state == {"next_index": number}
        batches.close()
    assert number == 5


class Elsewhere:
    """Steps that tell where they were laid; that of the third is broken."""

    def __len__(self):
        return 6

    def __getitem__(self, step):
        if step == 3:
            raise ValueError("no such example")
        jax = sys.modules.get("jax")
        return {
            "step": np.asarray([step]),
            "process": np.asarray([os.getpid(), os.getppid()]),
            "backends": np.asarray([0 if jax is None else len(jax._src.xla_bridge._backends)]),
            "platform": np.frombuffer(os.environ["JAX_PLATFORMS"].encode(), np.uint8),
            "deaf": np.asarray([signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])]),
        }


def gone(processes):
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{one}").exists() for one in processes):
        assert time.monotonic() < deadline, processes
        time.sleep(0.05)


def test_workers_are_processes_that_touch_no_device_and_what_fails_there_fails_in_the_run(
    monkeypatch,
):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    batches = Batches(Elsewhere(), workers=2)
    laid = [next(batches) for _ in range(3)]
    assert [int(one["step"][0]) for one in laid] == [0, 1, 2]
    processes = [int(one["process"][0]) for one in laid]
    assert len({*processes, os.getpid()}) == 3
    for one in laid:
        assert one["process"][1] == os.getpid()
        assert bytes(one["platform"]) == b"cpu"
        assert one["backends"] == 0
        assert one["deaf"]
    with pytest.raises(ValueError, match="no such example"):
        next(batches)
    batches.close()
    gone(processes)


class Endless:
    """Steps of which each tells the process that laid it."""

    def __len__(self):
        return 10_000

    def __getitem__(self, step):
        return {"process": np.asarray([os.getpid()])}


def test_a_worker_that_is_killed_is_told_in_one_line():
    batches = Batches(Endless(), workers=1)
    os.kill(int(next(batches)["process"][0]), signal.SIGKILL)
    with pytest.raises(UserError, match=r"data\.workers=1 was ended from outside"):
        list(batches)
    batches.close()


SCRIPT = """
import signal, sys, time
from contextlib import closing
import numpy as np
from zsg_jax.data.batches.workers import Workers

class Endless:
    def __len__(self):
        return 10_000
    def __getitem__(self, step):
        return {"process": np.asarray([__import__("os").getpid()])}

if __name__ == "__main__":
    # A shell's background job, as which tests may run, is deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    batches = Workers(Endless(), 0, 1)
    print(int(next(batches)["process"][0]), flush=True)
    if sys.argv[1] == "forget":
        sys.exit()
    with closing(batches):
        if sys.argv[1] == "error":
            raise ValueError("a mistake")
        if sys.argv[1] in ("interrupt", "kill"):
            for _ in batches:
                time.sleep(0.01)
"""


@pytest.mark.parametrize("end", ["forget", "interrupt", "kill", "error"])
def test_workers_end_however_the_run_ends(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    child = subprocess.Popen(
        [sys.executable, str(script), end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        start_new_session=True,
    )
    processes = [int(one) for one in child.stdout.readline().split()]
    assert len(processes) == 1
    if end == "interrupt":
        # As a terminal does it: to all of the group.
        os.killpg(child.pid, signal.SIGINT)
    elif end == "kill":
        child.kill()
    _, told = child.communicate(timeout=60)
    gone(processes)
    assert child.stdout.closed
    assert "SpawnProcess" not in told
    assert told.count("Traceback") == (1 if end in ("error", "interrupt") else 0), told
    assert "Exception ignored" not in told, told
    if end == "forget":
        assert (child.returncode, told) == (0, "")
