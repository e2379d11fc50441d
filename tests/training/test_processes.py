"""Two real processes on loopback run one study: the same order, losses within rounding."""

import os
import socket
import subprocess
import sys

import numpy as np

from zsg_jax import study

CHILD = """
import json, sys
from pathlib import Path
import jax

port, number, workdir, flat = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(number))
from zsg_jax import study
from zsg_jax.config import default_config

config = default_config()
config.update_from_flattened_dict(
    {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(flat).items()}
)
assert jax.device_count() == 2 and jax.local_device_count() == 1
study.run(config, Path(workdir), command="test")
"""


def test_two_processes_train_as_one(small_config, read_metrics, tmp_path):
    config = small_config(**{"tokenizer": "train", "tokenizer_size": 280, "mesh.fsdp": 1})
    study.run(config, tmp_path / "one", command="test")
    flat = (tmp_path / "one" / "config.json").read_text()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(port), str(number), str(tmp_path / "two"), flat],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for number in range(2)
    ]
    told = [process.communicate(timeout=200)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert "tmta-nft-seed0: 10 steps" in told[0]
    assert "tmta-nft-seed0" not in told[1]

    one, two = (
        read_metrics(tmp_path / name / "runs" / "tmta-nft-seed0") for name in ("one", "two")
    )
    digests = [[row.get("order_digest") for row in rows] for rows in (one, two)]
    assert digests[0] == digests[1]
    np.testing.assert_allclose(
        [row["loss"] for row in one], [row["loss"] for row in two], atol=2e-4
    )
    assert (tmp_path / "two" / "report" / "index.html").exists()
