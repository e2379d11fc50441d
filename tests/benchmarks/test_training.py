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


@pytest.fixture
def module(monkeypatch):
    """Imports a benchmark's module by name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        return __import__(name)

    yield load
    for name in ("turns", "full_rows", "measuring"):
        sys.modules.pop(name, None)


def test_help_names_every_case():
    said = run("--help").stdout
    for case in ("cpu", "small", "gpu"):
        assert re.search(rf"^  {case} ", said, re.M), case


@pytest.mark.parametrize(
    ("case", "rows"),
    [
        pytest.param(
            "cpu",
            ["packed", "torch, 2 rows at once", "torch, 16 rows at once"],
            marks=pytest.mark.slow,
        ),
        pytest.param("small", ["this project", "torch, eager"], marks=pytest.mark.slow),
        pytest.param(
            "gpu",
            [
                f"{side}, {way}"
                for way in ("4 rows, 2 at once, remat", "2 rows, 2 at once")
                for side in ("ours", "torch")
            ],
            marks=pytest.mark.slow,
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


def test_no_gpu_is_said():
    done = run("gpu")
    assert done.returncode == 0, done.stderr
    assert "gpu: skipped" in done.stdout


def test_what_does_not_fit_is_told_and_asked_once(module):
    full_rows, turns = module("full_rows"), module("turns")
    measuring = module("measuring")

    def full():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore")

    def broken():
        raise RuntimeError("INTERNAL: another mistake")

    seconds, said = full_rows._fitting(full, {"peak_flops": 10.0, "flops": 6})
    assert said["lacks"] == "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
    with pytest.raises(RuntimeError, match="another"):
        full_rows._fitting(broken, {})
    asked = []

    def side(what, result, seconds):
        def measure():
            asked.append(what)
            return measuring.Measured(what, seconds[asked.count(what) - 1], 0, result)

        return measure

    one, other = turns.turns(
        3, side("full", said, [seconds]), side("fits", {"memory": 2e9}, [5.0, 1.0, 2.0])
    )
    assert asked == ["full", "fits", "fits", "fits"]
    assert other.seconds == 2.0
    assert turns.rate(one, 100, one).split(maxsplit=1)[1].startswith("DOES NOT FIT: RESOURCE")
    told = turns.rate(other, 100, one)
    assert told.split(maxsplit=1)[1] == "50 tokens a second, MFU 30.0%, 2.0 GB of the device"


def test_sides_that_compute_different_things_are_refused(module):
    turns, measuring = module("turns"), module("measuring")

    def row(*losses):
        return measuring.Measured("a", 1.0, 0, {"losses": losses})

    turns.alike(row(1.0, 2.0), row(1.05, 2.0), 0.1)
    for other in (row(1.2, 2.0), row(1.0, float("nan"))):
        with pytest.raises(UserError, match="its losses are"):
            turns.alike(row(1.0, 2.0), other, 0.1)
