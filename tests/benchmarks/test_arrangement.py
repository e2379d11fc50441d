import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "arrangement.py"
LINE = re.compile(r"^(.{38})( *\d+\.\d\d)( *\d+\.\d\d)(?:( *\d+\.\d{3})( *\d+\.\d\d))?$", re.M)


def run(*arguments, **environment):
    command = [sys.executable, str(SCRIPT), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "rows", "peers"),
    [
        ("small", 900, {"faiss top-k search", "bare matmul", "study, (N, T) matrix"}),
        pytest.param("empty", 300, {"study, (N, T) matrix", "study, transposed"}, marks=slow),
        pytest.param("disk", 900, {"bare matmul"}, marks=slow),
        pytest.param("huge", 9000, {"bare matmul", "tmta, the disk case"}, marks=slow),
    ],
)
def test_a_tiny_case_prints_its_table(case, rows, peers, tmp_path):
    if case == "small":
        pytest.importorskip("faiss")
    sizes = ["--rows", str(rows), "--tests", "20", "--dimension", "24", "--runs", "1"]
    if case != "empty":
        sizes += ["--budget", "100"]
    done = run(case, *sizes, "--output", str(tmp_path / "out"), TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = {match[1].strip(): match for match in LINE.finditer(done.stdout)}
    assert "tmta" in found
    assert peers <= found.keys()
    assert f"N={rows:,} T=20 D=24" in done.stdout
    # A small pool is sorted whole.
    assert f"k={256 if rows > 4096 else rows}," in done.stdout
    for name, match in found.items():
        assert (match[4] is None) == (name == "tmta")
    assert re.search(r"^target .*: [\d.]+( GB)?, (met|MISSED)$", done.stdout, re.M)
    assert (tmp_path / "out" / f"{case}.txt").read_text() == done.stdout.removesuffix("\n")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # what was made up is gone
    assert str(tmp_path) not in done.stdout
