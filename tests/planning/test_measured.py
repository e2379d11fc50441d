"""The memory that a plan tells, against what real steps of the same config take here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHILD = """
import ctypes, json, sys
chips, overrides = int(sys.argv[1]), json.loads(sys.argv[2])
import jax
jax.config.update("jax_num_cpu_devices", chips)
import numpy as np
from zsg_jax.config import default_config
from zsg_jax.planning.estimate import compile_step
from zsg_jax.training import sharding
from zsg_jax.workflows import plan

def status(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024

config = default_config()
config.update_from_flattened_dict(overrides)
mesh = plan.make_mesh(config, jax.devices(), f"cpu:{chips}")
trainer, step_shape = plan.planned_trainer(config, mesh), plan.step_shape(config, mesh)
step, _ = compile_step(trainer, step_shape)
random = np.random.default_rng(0)
shape = (step_shape.rows, step_shape.length)
batch = {
    "tokens": random.integers(0, 258, shape, np.int32),
    "positions": np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape),
    "segment_ids": np.ones(shape, np.int32),
    "loss_mask": np.ones(shape, bool),
    "index": np.arange(shape[0], dtype=np.int32),
}
# What the compiler took is given back first, or the steps would hide in it.
jax.clear_caches()
ctypes.CDLL("libc.so.6").malloc_trim(0)
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = status("VmRSS")
def zeros(leaf):
    # Written to, for a page that nobody wrote takes no memory.
    part = lambda index: np.full([len(range(*s.indices(n))) for s, n in zip(index, leaf.shape)],
                                 1e-3, leaf.dtype)
    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
state = jax.tree.map(zeros, trainer.abstract_state)
batch = sharding.place_batch(batch, trainer.mesh)
for _ in range(3):
    state, metrics = step(state, batch)
    jax.block_until_ready(state)
print(json.dumps(status("VmHWM") - before))
"""


def output(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": str(ROOT),
            # A program read from a cache has not been compiled, and tells no memory.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            # Large arrays come from the system and go back to it.
            "MALLOC_MMAP_THRESHOLD_": "65536",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc to measure with")
@pytest.mark.parametrize(("chips", "mesh"), [(1, (1, 1)), (8, (8, 1)), (8, (2, 4))])
def test_a_step_takes_the_memory_that_the_plan_tells(chips, mesh):
    overrides = {
        "model.size": "small",
        "tokenizer": "train",
        "tokenizer_size": 8192,
        "data.max_length": 512,
        "training.packing": False,
        "training.batch_size": 16,
        "mesh.data": mesh[0],
        "mesh.fsdp": mesh[1],
    }
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    plan = output(
        *("-m", "zsg_jax.plan", "--config", "configs/tmta.py", "--topology", f"cpu:{chips}"),
        *("--json", "--memory-gb", "64", *flags),
    )
    told = plan["memory"]["total"] * chips
    assert told > 500e6
    measured = output("-c", CHILD, chips, json.dumps(overrides))
    assert abs(told / measured - 1) < 0.15, (told, measured)
