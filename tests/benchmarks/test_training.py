import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zsg_jax.runtime.errors import UserError

pytestmark = pytest.mark.references

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(*arguments, **environment):
    # One thread: those of torch wait long for each other on a machine that does other work.
    own = {"PYTHONPATH": str(FOLDER.parent), "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "training.py"), *arguments]
    environment = {**os.environ, **own, **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "rows"),
    [
        ("cpu", ["packed", "torch, 2 rows at once", "torch, 16 rows at once"]),
        ("small", ["this project", "torch, eager"]),
        (
            "gpu",
            [
                f"{side}, {way}"
                for way in ("4 rows, 2 at once, remat", "2 rows, 2 at once")
                for side in ("ours", "torch")
            ],
        ),
    ],
)
def test_a_tiny_case_runs_every_line(case, rows, tmp_path):
    pytest.importorskip("transformers")
    output = tmp_path / "out"
    done = run(case, "--tiny", "--runs", "1", "--output", str(output), TMPDIR=str(tmp_path))
    # Losses further apart than rounding and other random weights explain would have ended it.
    assert done.returncode == 0, done.stderr
    unit = "examples" if case == "cpu" else "tokens"
    found = re.findall(rf"^(.{{38}}) *[\d.]+ {unit} a second, ", done.stdout, re.M)
    assert [name.strip() for name in found] == rows, done.stdout
    assert re.search(r"^target .*: [\d.]+, (met|MISSED)$", done.stdout, re.M)
    assert ("MFU not known" in done.stdout) == (case != "cpu")
    assert "no number here means anything" in done.stdout
    assert (output / f"training-{case}.txt").read_text() == done.stdout.removesuffix("\n")
    assert not list(tmp_path.glob("zsg_jax-*"))  # what was made up is gone


def test_sides_that_compute_different_things_are_refused(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import measuring
    import turns

    def row(*losses):
        return measuring.Measured("a", 1.0, 0, {"losses": losses})

    turns.alike(row(1.0, 2.0), row(1.05, 2.0), 0.1)
    for other in (row(1.2, 2.0), row(1.0, float("nan"))):
        with pytest.raises(UserError, match="its losses are"):
            turns.alike(row(1.0, 2.0), other, 0.1)
