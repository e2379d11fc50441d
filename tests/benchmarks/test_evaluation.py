import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.references

ROOT = Path(__file__).parents[2]


def run(*arguments, **environment):
    command = [sys.executable, str(ROOT / "benchmarks" / "evaluation.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_texts_are_those_of_transformers(assets):
    pytest.importorskip("transformers")
    done = run("texts", "--rows", "12", "--batch", "4", "--runs", "1", "--new", "8")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^12 of 12 texts are the same, \d+ tokens", done.stdout, re.M)


@pytest.mark.slow
def test_both_sides_find_the_same_choices_and_the_table_tells(assets, tmp_path):
    pytest.importorskip("transformers")
    small = ["--rows", "6", "--batch", "2", "--runs", "1"]
    done = run("choices", *small, "--output", str(tmp_path))
    # Log-likelihoods further apart than rounding would have ended it.
    assert done.returncode == 0, done.stderr
    assert re.search(r"^choices: \d rows of P3, \d+ choices, 260,032 parameters", done.stdout)
    assert re.search(
        r"^target transformers / ours ≥ 1\.5: [\d.]+, (met|MISSED)$", done.stdout, re.M
    )
    assert (tmp_path / "choices.txt").read_text() == done.stdout.removesuffix("\n")
