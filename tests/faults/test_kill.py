"""A run killed with SIGKILL at any moment goes on and writes the numbers it would have."""

import os
import signal
import subprocess
import sys

import pytest

from zsg_jax import study

# Runs the study in `sys.argv[1]` and kills itself at the place that the other arguments name:
# "writing K": in its K-th write of a whole file, which is then half written beside its place;
# "row K": before the K-th metrics row of this process is written; "saving K": in the K-th save,
# with the state on disk but not yet its manifest; "saved K": after the K-th save; "mid-row K":
# with half a row written.
CHILD = """
import json, os, signal, sys
from pathlib import Path
from ml_collections import ConfigDict
from zsg_jax import durable, study
from zsg_jax.config import default_config
from zsg_jax.training import checkpoint, loop, metrics

workdir, config_file, place, count = sys.argv[1:]
config = default_config()
flat = json.loads(Path(config_file).read_text())
config.update_from_flattened_dict(
    {key: tuple(value) if isinstance(value, list) else value for key, value in flat.items()}
)
left = int(count)

def die_here(name):
    global left
    if name == place:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sync = durable._sync

def sync_whole(path):
    if path.is_file():
        if place == "writing" and left == 1:
            os.truncate(path, path.stat().st_size // 2)
        die_here("writing")
    sync(path)

durable._sync = sync_whole
write, digests, save = metrics.MetricsLog.write, checkpoint._digests, checkpoint.Checkpoints.save

def write_row(self, row):
    die_here("row")
    write(self, row)
    if place == "mid-row" and left == 1:
        self.flush()
        os.truncate(self._file.name, os.path.getsize(self._file.name) - 20)
    die_here("mid-row")

def digests_of(folder):
    die_here("saving")
    return digests(folder)

def save_all(self, *args):
    save(self, *args)
    die_here("saved")

metrics.MetricsLog.write = write_row
checkpoint._digests = digests_of
checkpoint.Checkpoints.save = save_all
study.run(config, Path(workdir), command="test")
"""


def child(workdir, config_file, place, count):
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(workdir), str(config_file), place, str(count)],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )


@pytest.fixture
def whole(small_config, tmp_path, read_metrics):
    """The config in a file, and the metrics of a run that was never stopped."""
    config = small_config()
    study.run(config, tmp_path / "whole", command="test")
    config_file = tmp_path / "whole" / "config.json"
    return config_file, read_metrics(tmp_path / "whole" / "runs" / "tmta-nft-seed0")


def check(tmp_path, whole, places, read_metrics, told=""):
    config_file, expected = whole
    workdir = tmp_path / "killed"
    for place, count in places:
        result = child(workdir, config_file, place, count)
        assert result.returncode == -signal.SIGKILL, (place, count, result.stderr)
    result = child(workdir, config_file, "none", 0)
    assert result.returncode == 0, result.stderr
    assert told in result.stderr
    assert read_metrics(workdir / "runs" / "tmta-nft-seed0") == expected
    assert (workdir / "report" / "index.html").exists()


def test_killed_again_and_again_the_metrics_are_the_same_bit_for_bit(whole, tmp_path, read_metrics):
    # Files come first: config.json, the tokens', data.json, shards and manifests, the
    # arrangement's, metrics. Then 10 steps, a test row at 0, 3, 6, 9 and 10, a checkpoint at 4, 8
    # and 10. After the last checkpoint: finished.json, summary.json, the page's.
    files = [("writing", count) for count in (4, 9)]
    loop = [("row", 3), ("saving", 1), ("saved", 1), ("mid-row", 5), ("saved", 2)]
    places = [*files, *loop, ("writing", 3)]
    check(tmp_path, whole, places, read_metrics, "going on after step 10")


@pytest.mark.slow
def test_killed_at_any_file(whole, tmp_path, read_metrics):
    files = [("writing", count) for count in (1, 2, 4, 6, 9, 12, 4, 6, 9)]
    loop = [("saving", 2), ("saving", 1), ("saved", 1)]
    check(tmp_path, whole, [*files, *loop, ("writing", 3), ("writing", 4)], read_metrics)


@pytest.mark.slow
@pytest.mark.parametrize("count", range(1, 16))
def test_killed_before_any_row(whole, tmp_path, read_metrics, count):
    check(tmp_path, whole, [("row", count)], read_metrics)
