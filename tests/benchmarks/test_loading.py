import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "loading.py"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.slow
def test_loading_takes_about_a_file_besides_the_model(tmp_path):
    done = run("--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    sizes = re.search(r"Llama of ([\d.]+) GB, .* at most ([\d.]+) GB", done.stdout)
    size, file = map(float, sizes.groups())
    (above,) = re.findall(r"^load onto .* ([\d.]+) +[\d.]+$", done.stdout, re.M)
    assert 1.9 < size < 2.1
    assert float(above) < 1.5 * file < size / 4
    assert (tmp_path / "loading.txt").read_text() == done.stdout
