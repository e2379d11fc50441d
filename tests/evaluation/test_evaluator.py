"""An evaluator alone on a checkpoint gives what it gave in the run, on any mesh."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack

import numpy as np

from zsg_jax.evaluation.evaluator import evaluate_checkpoint
from zsg_jax.training import sharding
from zsg_jax.training.checkpoint import Checkpoints
from zsg_jax.workflows import study
from zsg_jax.workflows.study_data import open_pool
from zsg_jax.workflows.study_model import make_trainer

RUN = "runs/tmta-nft-seed0"


def evaluate_alone(config, workdir, mesh, step=None):
    with ExitStack() as stack:
        tokenizer, pool = open_pool(config, workdir, stack)
        trainer = make_trainer(config, tokenizer, mesh)
        evaluator = study.loss_evaluator(config, pool, trainer)
        checkpoints = Checkpoints(workdir / RUN / "checkpoints")
        return evaluate_checkpoint([evaluator], trainer, checkpoints, step=step)


CHILD = """
import json, sys
from pathlib import Path
import jax
from zsg_jax.config import default_config
from zsg_jax.training import sharding
sys.path.insert(0, sys.argv[3])
from test_evaluator import evaluate_alone

assert jax.device_count() == 8
flat = json.loads(sys.argv[2]).items()
config = default_config()
config.update_from_flattened_dict({k: tuple(v) if isinstance(v, list) else v for k, v in flat})
print(json.dumps(evaluate_alone(config, Path(sys.argv[1]), sharding.make_mesh(2, 2, 2))))
"""


def test_alone_on_a_checkpoint_it_gives_the_record_of_the_run(small_config, read_metrics, tmp_path):
    config = small_config(**{"evaluation.every": 2})
    study.run(config, tmp_path, command="test")
    recorded = {one["step"]: one for one in read_metrics(tmp_path / RUN) if one["kind"] == "test"}
    mesh = sharding.make_mesh(1)
    for step in (8, None):
        alone = evaluate_alone(config, tmp_path, mesh, step)
        assert alone == {k: v for k, v in recorded[step or 10].items() if k != "kind"}

    flat = (tmp_path / "config.json").read_text()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), flat, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    split = json.loads(done.stdout.splitlines()[-1])
    assert split.keys() == alone.keys()
    np.testing.assert_allclose(split["losses"], alone["losses"], rtol=1e-5)
    for field in ("step", "instances", "dropped"):
        assert split[field] == alone[field]
