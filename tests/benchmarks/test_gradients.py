import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.references

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_gradients_are_those_of_torch_and_the_table_tells(assets):
    pytest.importorskip("peft")
    command = [sys.executable, str(ROOT / "benchmarks" / "gradients.py"), "--rows", "8"]
    done = subprocess.run(
        [*command, "--runs", "1", "--dimension", "1024"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    # Cosines further apart than a projection's error would have ended it.
    assert done.returncode == 0, done.stderr
    assert re.search(r"^gradients: 8 rows of P3, adapters of rank 8, 46,240 numbers", done.stdout)
    assert re.search(r"^target torch / ours ≥ 3: [\d.]+, (met|MISSED)$", done.stdout, re.M)
