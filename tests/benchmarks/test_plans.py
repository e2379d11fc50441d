"""Plans by name."""

import subprocess
import sys
from pathlib import Path


def test_a_name_that_is_none_is_told_with_those_that_are():
    script = Path(__file__).parents[2] / "benchmarks" / "plans.py"
    done = subprocess.run([sys.executable, str(script), "v5p-9"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no plan v5p-9" in done.stderr
    assert "v5p-8" in done.stderr
