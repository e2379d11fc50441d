"""A run killed with SIGKILL at any moment goes on and writes the numbers it would have."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parent / "killed.py"


def child(workdir, config_file, place, count):
    return subprocess.run(
        [sys.executable, CHILD, str(workdir), str(config_file), place, str(count)],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )


@pytest.fixture
def whole(finished, read_metrics):
    """The config in a file, and the metrics of a run that was never stopped."""
    return finished / "config.json", read_metrics(finished / "runs" / "tmta-nft-seed0")


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
