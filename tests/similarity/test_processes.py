"""Two real processes on loopback embed, compare and arrange as one does, each its own share."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

CHILD = textwrap.dedent("""
    import hashlib, json, os, signal, sys, time
    from pathlib import Path
    import jax, numpy as np

    folder, number, count, port, stop_after, compare = Path(sys.argv[1]), *map(int, sys.argv[2:])
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=count, process_id=number)
    from jax.sharding import Mesh
    from zsg_jax.arrangement import tmta
    from zsg_jax.similarity.search.cosine import cosine_matrix, scan
    from zsg_jax.similarity.search.options import Search
    from zsg_jax.similarity.encoders.embed import embed
    from zsg_jax.similarity.embeddings import StoredEmbeddings
    from zsg_jax.similarity.transport import optimal_transport

    class Encoder:
        name, dimension, fingerprint = "made up", 20, "1"
        encoded = 0

        def encode(self, texts, on_progress=None):
            if self.encoded >= stop_after:
                print(json.dumps("stopped"), flush=True)
                time.sleep(100)
            self.encoded += len(texts)
            seeds = [int(text) % 1200 for text in texts]  # many rows come twice
            return np.stack([np.random.default_rng(s).normal(size=20) for s in seeds])

    encoder = Encoder()
    train = embed([str(n) for n in range(2900)], encoder, folder / "train", shard_rows=256)
    test = embed([str(n) for n in range(5000, 5030)], encoder, folder / "test", shard_rows=256)
    if not compare:
        print(json.dumps({"encoded": encoder.encoded}))
        sys.exit()
    read, file = set(), StoredEmbeddings._file
    def spy(self, number):
        if self is train:
            read.add(number)
        return file(self, number)
    StoredEmbeddings._file = spy

    def digest(arrays):
        parts = [np.ascontiguousarray(a).tobytes() for a in arrays]
        return hashlib.sha256(b"".join(parts)).hexdigest()

    options = {"search": Search(Mesh(np.array(jax.devices()), ("rows",)), 512)}
    groups = np.arange(2900) // 700
    out = {"matrix": digest([cosine_matrix(train, test, **options)])}
    excluded = np.random.default_rng(0).random(2900) < 0.1
    for on_host in (True, False):
        options["on_host"] = on_host
        found = scan(
            train, test, nearest=30, farthest=7, statistics=True, groups=groups, **options
        )
        out[f"scan {on_host}"] = digest([a for part in found for a in part])
        found = scan(train, test, nearest=30, excluded=excluded, **options)
        out[f"some {on_host}"] = digest(found.nearest)
    del options["on_host"]
    for farthest in (False, True):
        a = tmta(train, test, farthest=farthest, k=20, **options)
        out[f"tmta {farthest}"] = digest([a.order, a.turn])
    own = sorted(read)
    if number == count - 1:  # its machine is too small for the exact plan
        sysconf = os.sysconf
        os.sysconf = lambda name: 10 if name == "SC_PHYS_PAGES" else sysconf(name)
    out["transport"] = digest([optimal_transport(train, test, **options).distance])
    print(json.dumps({"results": out, "read": own, "encoded": encoder.encoded}))
""")


def started(folder, count, stop_after=10**9, compare=1):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={4 // count}",
    }
    arguments = [[str(x) for x in (n, count, port, stop_after, compare)] for n in range(count)]
    return [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), *some],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for some in arguments
    ]


def ran(processes):
    told = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), told
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    (told,) = ran(started(folder, 1))
    return folder, told


def test_two_processes_find_what_one_does_each_in_its_own_rows(alone, tmp_path):
    folder, expected = alone
    two = ran(started(tmp_path, 2))
    assert [one["results"] for one in two] == [expected["results"]] * 2
    assert contents(tmp_path) == contents(folder)
    # Twelve shards: the first process has rows 0 to 1,535, in every pass.
    assert expected["read"] == [*two[0]["read"], *two[1]["read"]] == list(range(12))
    assert two[0]["read"] == list(range(6))
    assert [one["encoded"] for one in two] == [6 * 256 + 30, 5 * 256 + 84]


@pytest.mark.parametrize("then", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_killed_while_embedding_go_on_where_they_were(alone, tmp_path, then):
    processes = started(tmp_path, 2, stop_after=512)
    for process in processes:
        assert json.loads(process.stdout.readline()) == "stopped"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    told = ran(started(tmp_path, then, compare=0))
    assert sum(one["encoded"] for one in told) == 2900 + 30 - 2 * 512
    assert contents(tmp_path) == contents(alone[0])
