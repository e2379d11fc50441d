"""Checkpoints evaluated alone: the run's own numbers, on any mesh."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import evaluate, study

ROOT = Path(__file__).parents[2]
RUN = "runs/tmta-nft-seed0"


def records(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_alone_a_checkpoint_gives_the_record_of_its_run(small_config, read_metrics, tmp_path):
    workdir = tmp_path / "w"
    study.run(small_config(**{"evaluation.every": 2}), workdir, command="test")
    recorded = {one["step"]: one for one in read_metrics(workdir / RUN) if one["kind"] == "test"}

    named = [str(workdir / RUN / "checkpoints" / "00000008"), str(workdir / RUN)]
    written = evaluate.run(named, tmp_path / "one", mesh=(1, 1, 1))
    alone = records(written)
    assert [one["step"] for one in alone] == [8, 10]
    for one in alone:
        of_run = recorded[one["step"]]
        assert {field: one[field] for field in of_run if field != "kind"} == {
            field: value for field, value in of_run.items() if field != "kind"
        }

    command = ["-m", "zsg_jax.evaluate", "--checkpoint", *named, "--output", "eight"]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, *command, "--mesh=2,2,2"], check=True, cwd=tmp_path, env=os.environ | flags
    )
    for one, split in zip(alone, records(tmp_path / "eight" / written.name), strict=True):
        assert split.keys() == one.keys()
        np.testing.assert_allclose(split["losses"], one["losses"], rtol=1e-5)
        assert split["step"] == one["step"]

    with pytest.raises(UserError, match="give another folder"):
        evaluate.run(named, tmp_path / "one", mesh=(1, 1, 1))
    with pytest.raises(UserError, match="tmta-nft-seed0"):
        evaluate.run([str(workdir / "runs/tmta-nft-seed7")], tmp_path / "none", mesh=(1, 1, 1))
