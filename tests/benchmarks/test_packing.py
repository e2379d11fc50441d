import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.references

ROOT = Path(__file__).parents[2]


def run(*arguments, **environment):
    command = [sys.executable, str(ROOT / "benchmarks" / "packing.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_both_sides_train_alike_and_the_table_tells(assets, tmp_path):
    pytest.importorskip("transformers")
    done = run("--steps", "2", "--runs", "1", "--long", "640", "--output", str(tmp_path))
    # Losses further apart than rounding would have ended it.
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(.{38}) *[\d.]+ examples a second, ([\d.]+)%", done.stdout, re.M)
    assert [name.split(",")[0].strip() for name, _ in found] == [
        "packed",
        "unpacked",
        "unpacked",
        "transformers",
        "transformers",
    ]
    fills = [float(fill) for _, fill in found]
    assert fills[0] > 80 > fills[2] > fills[1]
    assert fills[1] == fills[3]
    assert (tmp_path / "packing.txt").read_text() == done.stdout.removesuffix("\n")
