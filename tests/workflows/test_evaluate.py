"""Checkpoints evaluated alone: the run's own numbers, on any mesh."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import evaluate

ROOT = Path(__file__).parents[2]
RUN = "runs/tmta-nft-seed0"


def records(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_alone_a_checkpoint_gives_the_record_of_its_run(finished, read_metrics, tmp_path):
    recorded = {one["step"]: one for one in read_metrics(finished / RUN) if one["kind"] == "test"}
    one = tmp_path / "one"
    # A mistaken call leaves an empty file, which does not refuse the corrected one.
    with pytest.raises(UserError, match="whole checkpoint of step 9; kept are 8, 10"):
        evaluate.run([str(finished / RUN / "checkpoints/00000009")], one, mesh=(1, 1, 1))
    named = [str(finished / RUN / "checkpoints" / "00000008"), str(finished / RUN)]
    written = evaluate.run(named, one, mesh=(1, 1, 1))
    alone = records(written)
    assert [record["step"] for record in alone] == [8, 10]
    of_run = recorded[10]
    assert {field: alone[1][field] for field in of_run if field != "kind"} == {
        field: value for field, value in of_run.items() if field != "kind"
    }

    command = ["-m", "zsg_jax.evaluate", "--checkpoint", *named, "--output", "eight"]
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, *command, "--mesh=2,2,2"], check=True, cwd=tmp_path, env=environment
    )
    for record, split in zip(alone, records(tmp_path / "eight" / written.name), strict=True):
        assert split.keys() == record.keys()
        np.testing.assert_allclose(split["losses"], record["losses"], rtol=1e-5)
        assert split["step"] == record["step"]

    with pytest.raises(UserError, match="give another folder"):
        evaluate.run(named, one, mesh=(1, 1, 1))
    with pytest.raises(UserError, match="tmta-nft-seed0"):
        evaluate.run([str(finished / "runs/tmta-nft-seed7")], tmp_path / "none", mesh=(1, 1, 1))
