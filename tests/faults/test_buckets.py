"""Workdirs at gs:// and s3://, on stand-ins for both stores that listen on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.config import flatten
from zsg_jax.runtime.buckets import Store
from zsg_jax.runtime.errors import UserError
from zsg_jax.training.metrics import CLOCKS
from zsg_jax.workflows import export as exporting
from zsg_jax.workflows import study

pytestmark = pytest.mark.references

ROOT = Path(__file__).parents[2]
RUN = "tmta-nft-seed0"
SCHEMES = ("gs", "s3")


# By itself it answers one connection at a time, and lets five wait; libraries open many. What is in
# its memory is for one request at a time.
GOOGLE = """
import sys, threading
from gcp_storage_emulator import __main__, server
server.server.HTTPServer = server.server.ThreadingHTTPServer
server.server.HTTPServer.request_queue_size = 128
lock, handle = threading.Lock(), server.Router.handle
def handle_alone(*given):
    with lock:
        return handle(*given)
server.Router.handle = handle_alone
__main__.main(sys.argv[1:])
"""
AMAZON = "from moto.server import main; main()"


@pytest.fixture(scope="module")
def stores(tmp_path_factory, free_port):
    """The variables by which libraries find both stores; each has a bucket named `bucket`."""
    pytest.importorskip("moto")
    pytest.importorskip("gcp_storage_emulator")
    folder, ports = tmp_path_factory.mktemp("stores"), (free_port(), free_port())
    google = ["start", "--host=127.0.0.1", f"--port={ports[0]}", "--in-memory"]
    servers = [
        subprocess.Popen([sys.executable, "-c", program, *flags], stdout=log, stderr=log)
        for program, flags, log in (
            (GOOGLE, [*google, "--default-bucket=bucket"], (folder / "google").open("w")),
            (AMAZON, [f"--port={ports[1]}"], (folder / "amazon").open("w")),
        )
    ]
    until = time.monotonic() + 60
    for port, server in zip(ports, servers, strict=True):
        while True:
            assert server.poll() is None, [path.read_text() for path in folder.iterdir()]
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)
    addresses = [f"http://127.0.0.1:{port}" for port in ports]
    yield {
        "STORAGE_EMULATOR_HOST": addresses[0],
        "TENSORSTORE_GCS_HTTP_URL": addresses[0],
        "AWS_ENDPOINT_URL": addresses[1],
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for server in servers:
        server.kill()
        server.wait()


@pytest.fixture
def place(stores, monkeypatch, tmp_path):
    """Gives an address of a scheme that nobody has used; this machine's cache is empty."""
    import s3fs

    for name, value in stores.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    amazon = s3fs.S3FileSystem()
    if not amazon.exists("bucket"):
        amazon.mkdir("bucket")
    return lambda scheme: f"{scheme}://bucket/{tmp_path.name}/study"


def rows_of(address, run=RUN):
    content = Store(address).read(f"runs/{run}/metrics.jsonl") or b""
    rows = [json.loads(line) for line in content.splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in rows]


def kept_steps(address):
    return sorted(
        int(name.split("/")[3])
        for name in Store(address).list()
        if name.startswith(f"runs/{RUN}/checkpoints/") and name.endswith("/manifest.json")
    )


# What s3:// has of its own, `tests/workdir/test_location.py` and the next test ask for in seconds.
@pytest.mark.parametrize("scheme", ["gs", pytest.param("s3", marks=pytest.mark.slow)])
def test_a_study_goes_on_on_another_machine_from_the_bucket_alone(
    scheme, place, finished, small_config, tmp_path, read_metrics, monkeypatch, capsys
):
    config, address = small_config(), place(scheme)
    expected = read_metrics(finished / "runs" / RUN)

    def stop(self, row, write=study.metrics.MetricsLog.write):
        if row["step"] == 7:
            raise KeyboardInterrupt
        write(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(study.metrics.MetricsLog, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            study.run(config, address, command="test")
    assert kept_steps(address) == [4]
    # What had been made when it was stopped is there, and of what was half made nothing.
    assert [row["step"] for row in rows_of(address)][-1] == 6
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    page = study.run(config, address, command="test")
    assert "going on after step 4" in capsys.readouterr().err
    assert rows_of(address) == expected
    assert kept_steps(address) == [8, 10]
    assert Store(address).read("report/index.html") == page.read_bytes()
    assert [name for name in Store(address).list() if ".partial" in name or "scratch" in name] == []

    # Damage to an object is stepped over, as damage to a file is.
    store = Store(address)
    (largest,) = sorted(
        (name for name in store.list() if "/00000010/state/" in name),
        key=lambda name: store.list()[name].size,
    )[-1:]
    content = bytearray(store.read(largest))
    content[len(content) // 2] ^= 1
    store.write(largest, bytes(content))
    store.delete([f"runs/{RUN}/finished.json"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third"))
    study.run(config, address, command="test")
    told = capsys.readouterr().err
    assert "00000010: is damaged" in told
    assert f"{RUN}: going on after step 8" in told
    assert rows_of(address) == expected

    # And a checkpoint there is exported as one in a folder is.
    for workdir, output in ((address, "a"), (finished, "b")):
        exporting.run(exporting.ExportOptions(workdir, RUN, tmp_path / output))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_a_mistake_is_told_with_the_address_and_nothing_is_made(place, small_config):
    store = Store(place("s3"))
    made = flatten(small_config(**{"training.steps": 1}))
    store.write("config.json", json.dumps(made).encode())
    store.write(f"runs/{RUN}/metrics.jsonl", b"")
    with pytest.raises(UserError, match=rf"^--workdir {store.address}: belongs to another config"):
        study.run(small_config(**{"training.steps": 2}), store.address, command="test")
    assert store.list().keys() == {"config.json", f"runs/{RUN}/metrics.jsonl"}
    missing = "s3://no-such-bucket/study"
    with pytest.raises(
        UserError, match=rf"^{missing}: cannot be listed: FileNotFoundError: .*; see"
    ):
        study.run(small_config(), missing, command="test")


# Most files are written before the first step; the last places are in training.
PLACES = [("writing", 30), ("uploading", 3), ("uploading", 8), ("row", 5), ("saving", 1)]
PLACES += [("row", 9), ("writing", 8)]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("machines", ["the same", "others"])
def test_killed_again_and_again_the_metrics_are_the_same(
    scheme, machines, place, stores, commands, finished, tmp_path, read_metrics
):
    address, config_file, kills = place(scheme), finished / "config.json", 0
    for number, (where, count) in enumerate([*PLACES, ("none", 0)]):
        cache = str(tmp_path / f"machine{number if machines == 'others' else ''}")
        study = [address, config_file, where, count]
        ((code, _, err),) = commands(
            "killed", study, cwd=Path(__file__).parent, **stores, XDG_CACHE_HOME=cache
        )
        assert code in (-signal.SIGKILL, 0), (where, count, err)
        kills += code != 0
    # What has been kept need not be done again, so the study may be over before the last.
    assert code == 0
    assert kills >= 4
    assert rows_of(address) == read_metrics(finished / "runs" / RUN)


TWO = [
    "--config=tests/faults/small.py",
    "--config.training.steps=14",
    "--config.training.checkpoint_every=4",
]


def several(port, stores, tmp_path, address, *flags):
    """The command in two processes of four devices, as on machines that share no disk."""
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "zsg_jax.main", *TWO, f"--workdir={address}", *flags),
                *(f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"),
                *(f"--process_id={number}", "--heartbeat_timeout_seconds=10"),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                **stores,
                "JAX_PLATFORMS": "cpu",
                "PYTHONPATH": str(ROOT),
                "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
                "XDG_CACHE_HOME": str(tmp_path / f"host{number}"),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


@pytest.mark.slow
def test_machines_that_share_no_disk_share_a_bucket(place, stores, tmp_path, free_port):
    one, two = f"{place('gs')}/one", f"{place('gs')}/two"
    alone = subprocess.run(
        [sys.executable, "-m", "zsg_jax.main", *TWO, f"--workdir={one}"],
        cwd=ROOT,
        env={**os.environ, **stores, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert alone.returncode == 0
    processes = several(
        free_port(), stores, tmp_path, two, "--config.mesh.fsdp=8", "--config.mesh.data=1"
    )
    while not kept_steps(two):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.1)
    # One is gone, with its disk; the other ends, and all go on, on another mesh.
    processes[1].kill()
    told = [process.communicate(timeout=120)[1] for process in processes]
    assert processes[0].returncode in (134, -signal.SIGABRT), told
    os.rename(tmp_path / "host1", tmp_path / "lost")
    processes = several(
        free_port(), stores, tmp_path, two, "--config.mesh.fsdp=2", "--config.mesh.data=4"
    )
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert "going on after step" in told[0]
    expected, found = rows_of(one), rows_of(two)
    for name in ("step", "kind", "order_digest"):
        assert [row.get(name) for row in found] == [row.get(name) for row in expected]
    losses = [np.asarray([row["loss"] for row in rows]) for rows in (expected, found)]
    np.testing.assert_allclose(losses[1], losses[0], atol=2e-4)
