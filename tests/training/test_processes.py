"""Two processes on loopback, packed, run one study as one does with an instance a row."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.workflows import study

CHILD = """
import json, sys
from pathlib import Path
import jax

port, number, workdir, flat = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(number))
from zsg_jax.workflows import study
from zsg_jax.config import default_config

config = default_config()
config.update_from_flattened_dict(
    {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(flat).items()}
)
assert jax.device_count() == 2 and jax.local_device_count() == 1
study.run(config, Path(workdir), command="test")
"""


@pytest.mark.slow
def test_two_processes_train_as_one(small_config, uneven, read_metrics, tmp_path):
    changes = {"tokenizer": "train", "tokenizer_size": 280, "mesh.fsdp": 1}
    changes |= {"training.steps": 10, "training.packing": False}
    # One row is long, so that several of the others share one.
    turns = [("user", "Say all: " + "red green blue " * 9), ("assistant", "blue")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    train = tmp_path / "train.jsonl"
    train.write_text(Path(uneven["data.train"]).read_text() + json.dumps(row) + "\n")
    config = small_config(**changes, **uneven | {"data.train": str(train)})
    study.run(config, tmp_path / "one", command="test")
    flat = json.loads((tmp_path / "one" / "config.json").read_text())
    flat = json.dumps(flat | {"training.packing": True})
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
    fills = [np.mean([row["fill"] for row in rows if "fill" in row]) for rows in (one, two)]
    assert fills[1] > fills[0]
    np.testing.assert_allclose(
        [row["loss"] for row in one], [row["loss"] for row in two], atol=2e-4
    )
    assert (tmp_path / "two" / "report" / "index.html").exists()
