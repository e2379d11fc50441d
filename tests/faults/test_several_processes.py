"""The command in two processes of two devices trains as in one of four, stopped or not."""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STEPS = 14
# Sums over devices round in another order by gloo than in one process; 1e-6 was seen.
TOLERANCE = 1e-4
STUDY = [
    f"--config={ROOT}/tests/faults/small.py",
    f"--config.model.size={ROOT}/tests/faults/one_layer.json",
    "--config.mesh.data=1",
    "--config.mesh.fsdp=4",
    f"--config.training.steps={STEPS}",
    "--config.evaluation.every=7",
]


def started(workdir, count, *flags, homes=(ROOT, ROOT), devices=None):
    """Starts the command as a user does, in `count` processes with four devices together.

    `homes`: the folder in which each is started, where its relative paths begin; `devices`: how
    many each has.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    workdirs = workdir if isinstance(workdir, list) else [workdir] * count
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        # What is slow here is compiling, not the code that comes of it.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    devices = devices or [4 // count] * count
    several = [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={count}"]
    own = [[*several, f"--process_id={number}"] if count > 1 else [] for number in range(count)]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "zsg_jax.main", *STUDY, f"--workdir={where}", *one, *flags],
            cwd=home,
            env=environment | {"JAX_NUM_CPU_DEVICES": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for one, where, home, number in zip(own, workdirs, homes, devices, strict=False)
    ]


def ended(processes, *codes):
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == list(codes), told
    return [err for _, err in told]


def wait_for_step(processes, run, step):
    """Returns once the rows up to `step`, which is not the last, are on disk."""
    while not any(row["step"] >= step for row in rows_of(run)):
        assert all(process.poll() is None for process in processes), "ended before it was stopped"
        time.sleep(0.02)


def rows_of(run):
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def check_digests(workdir, rows):
    """Step s must have consumed the first 8 s ids of the arrangement, whoever took the steps."""
    ids = (workdir / "arrangements" / "tmta-nft" / "ids.txt").read_text().splitlines()
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(1, STEPS + 1))
    for row in train:
        consumed = "".join(f"{name}\n" for name in ids[: 8 * row["step"]])
        assert row["order_digest"] == hashlib.sha256(consumed.encode()).hexdigest()


@pytest.mark.ci
@pytest.mark.slow
def test_sigterm_to_one_of_two_saves_for_both_and_one_goes_on(tmp_path):
    run = tmp_path / "runs" / "tmta-nft-seed0"
    flags = ["--config.training.checkpoint_every=100"]
    two = started(tmp_path, 2, *flags)
    wait_for_step(two, run, 2)
    two[1].send_signal(signal.SIGTERM)
    told = ended(two, 143, 143)
    assert "stopping after step" in told[0]
    assert told[0].splitlines()[-1].startswith("zsg_jax: ended by SIGTERM; the same command goes")
    assert told[1] == ""
    (checkpoint,) = (run / "checkpoints").iterdir()
    at = int(checkpoint.name)
    assert 2 <= at < STEPS
    assert max(row["step"] for row in rows_of(run)) == at
    # Both have made the page of the order.
    page = (tmp_path / "arrangements" / "tmta-nft" / "explain.html").read_text()
    assert "Pairs to read" in page

    # Each process wrote its half of a state that no process holds whole.
    sizes = [
        sum(path.stat().st_size for path in (checkpoint / "state").rglob(f"{part}/d/*"))
        for part in ("ocdbt.process_0", "ocdbt.process_1")
    ]
    assert min(sizes) > 0.4 * sum(sizes) > 40_000

    told = ended(started(tmp_path, 1, *flags), 0)
    assert f"going on after step {at}" in told[0]
    check_digests(tmp_path, rows_of(run))
    assert "arrangements/tmta-nft/explain.html" in (tmp_path / "report" / "index.html").read_text()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The rows of a run in one process of four devices that was never stopped."""
    workdir = tmp_path_factory.mktemp("alone")
    ended(started(workdir, 1, "--config.training.checkpoint_every=6"), 0)
    return rows_of(workdir / "runs" / "tmta-nft-seed0")


def check_same(workdir, expected):
    rows = rows_of(workdir / "runs" / "tmta-nft-seed0")
    check_digests(workdir, rows)
    assert [(row["step"], row["kind"]) for row in rows] == [
        (row["step"], row["kind"]) for row in expected
    ]
    for name in ("loss", "learning_rate", "grad_norm", "tokens", "fill"):
        values, others = ([row[name] for row in some if name in row] for some in (rows, expected))
        np.testing.assert_allclose(values, others, atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)
    losses, others = (
        [row["losses"] for row in some if "losses" in row] for some in (rows, expected)
    )
    np.testing.assert_allclose(losses, others, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_of_two_is_killed_the_other_ends_and_both_go_on(alone, tmp_path, killed):
    flags = ["--config.training.checkpoint_every=6", "--heartbeat_timeout_seconds=10"]
    two = started(tmp_path, 2, *flags)
    wait_for_step(two, tmp_path / "runs" / "tmta-nft-seed0", 8)
    two[killed].kill()
    asked = time.monotonic()
    told = two[1 - killed].communicate(timeout=100)[1]
    assert time.monotonic() - asked < 40
    assert two[1 - killed].returncode not in (0, 143)
    assert "another process is gone" in told or "JAX distributed service detected" in told
    two[killed].communicate()
    ended(started(tmp_path, 2, *flags), 0, 0)
    check_same(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_when_one_of_two_stands_still_the_other_ends_by_a_line(tmp_path, stopped):
    two = started(tmp_path, 2, "--heartbeat_timeout_seconds=10")
    wait_for_step(two, tmp_path / "runs" / "tmta-nft-seed0", 2)
    two[stopped].send_signal(signal.SIGSTOP)
    told = two[1 - stopped].communicate(timeout=100)[1]
    two[stopped].kill()
    two[stopped].communicate()
    # Ended by itself, or by JAX's abort, which a shell calls 134 as well.
    assert two[1 - stopped].returncode in (134, -signal.SIGABRT)
    assert told.splitlines()[-1].startswith(f"zsg_jax: process {1 - stopped}: ")
    assert "is gone, or has stood still" in told
    assert "stack trace" not in told


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["kept", "deleted"])
def test_a_process_0_that_only_stood_still_does_not_meddle_with_a_restart(alone, tmp_path, lock):
    flags = ["--config.training.checkpoint_every=6", "--heartbeat_timeout_seconds=10"]
    run = tmp_path / "runs" / "tmta-nft-seed0"
    first = started(tmp_path, 2, *flags)
    wait_for_step(first, run, 8)
    first[0].send_signal(signal.SIGSTOP)
    told = first[1].communicate(timeout=100)[1]
    assert "is gone, or has stood still" in told.splitlines()[-1]
    if lock == "kept":
        # It holds the workdir, and is named.
        told = [process.communicate(timeout=100)[1] for process in started(tmp_path, 2, *flags)]
        assert f"another process is at work there ({first[0].pid} on " in told[0].splitlines()[-1]
        again = []
    else:
        (tmp_path / ".lock").unlink()
        again = started(tmp_path, 2, *flags)
        wait_for_step(again, run, 7)
    first[0].send_signal(signal.SIGCONT)
    told = first[0].communicate(timeout=100)[1]
    assert first[0].returncode not in (0, 143)
    assert told.splitlines()[-1].startswith("zsg_jax: ")
    assert "Traceback" not in told
    ended(again or started(tmp_path, 2, *flags), 0, 0)
    check_same(tmp_path, alone)


@pytest.mark.slow
def test_from_two_processes_to_one_and_back(alone, tmp_path):
    flags = ["--config.training.checkpoint_every=6"]
    run = tmp_path / "runs" / "tmta-nft-seed0"
    for count, step in ((2, 2), (1, 8)):
        processes = started(tmp_path, count, *flags)
        wait_for_step(processes, run, step)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        ended(processes, *[143] * count)
    ended(started(tmp_path, 2, *flags), 0, 0)
    check_same(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize("earlier", [False, True])
def test_a_disk_of_its_own_is_told_also_where_a_study_lies_on_it(tmp_path, earlier):
    if earlier:
        (tmp_path / "second").mkdir()
        (tmp_path / "second" / "config.json").write_text("{}")
    told = ended(started([tmp_path / "first", tmp_path / "second"], 2), 1, 1)
    assert told[1].startswith(f"zsg_jax: process 1: --workdir {tmp_path / 'second'}: ")
    for one in told:
        assert one.endswith("process 0 wrote there; give a folder that all hosts share\n")
    assert [path.name for path in tmp_path.rglob(".seen-*")] == []


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize("differs", ["the weights it begins with", "the training instances"])
def test_hosts_that_read_other_files_under_one_path_are_told(tmp_path, write_llama, differs):
    homes = [tmp_path / "first", tmp_path / "second"]
    for number, home in enumerate(homes):
        write_llama(home / "model", seed=number * ("weights" in differs))
        answer = "ab"[number * ("training" in differs)]
        for side, last in (("train", answer), ("test", "a")):
            rows = [{"prompt": f"{side} {i}", "completion": last} for i in range(32)]
            (home / f"{side}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    flags = [f"--config.data.{side}={side}.jsonl" for side in ("train", "test")]
    flags += ["--config.model.init_from=model", "--config.training.steps=2"]
    told = ended(started(tmp_path / "w", 2, *flags, homes=homes), 1, 1)
    for one in told:
        last = one.splitlines()[-1]
        assert f"process 1 was given {differs} (SHA-256)=" in last
        assert last.endswith("put the same files where each of them reads")
    assert not (tmp_path / "w" / "embeddings").exists()


@pytest.mark.ci
@pytest.mark.slow
def test_hosts_that_run_other_code_are_told(tmp_path):
    second = tmp_path / "second"  # Python takes the code that lies where it is started
    for name in ("zsg_jax", "configs"):
        shutil.copytree(ROOT / name, second / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (second / "zsg_jax" / "arrangement" / "permutations.py").open("a") as file:
        file.write("# other\n")
    for one in ended(started(tmp_path / "w", 2, homes=(ROOT, second)), 1, 1):
        assert "process 1 was given source of zsg_jax=" in one.splitlines()[-1]


@pytest.mark.ci
@pytest.mark.slow
def test_processes_with_different_numbers_of_devices_are_told_in_a_line(tmp_path):
    for one in ended(started(tmp_path / "w", 2, devices=[3, 1]), 1, 1):
        # Above it gRPC may tell of a connection that was slow.
        assert "process 0 has 3, process 1 has 1; give each process as many" in one.splitlines()[-1]
        assert "Traceback" not in one
