"""What tests of training share: a small batch, and a child process with simulated devices."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from zsg_jax.training.sharding import place_batch


@pytest.fixture(scope="session")
def on_devices():
    """Runs code on so many simulated devices; gives what its last line, JSON, says, and stderr."""

    def run(count, code, *arguments):
        flags = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(count)}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=os.environ | flags,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    return run


@pytest.fixture(scope="session")
def batch():
    """Lays 8 sequences of 16 tokens, easily learnt, on a mesh."""

    def make(mesh, words):
        place = np.broadcast_to(np.arange(16), (8, 16))
        first = np.random.default_rng(0).integers(0, words, (8, 1))
        laid = {
            "tokens": ((first + 3 * place) % words).astype(np.int32),
            "positions": place.astype(np.int32),
            "segment_ids": np.ones((8, 16), np.int32),
            "loss_mask": place > 1,
            "index": np.arange(8, dtype=np.int32),
        }
        return place_batch(laid, mesh)

    return make
