"""Plans by name."""

import runpy
import sys
from pathlib import Path

import pytest


def test_a_name_that_is_none_is_told_with_those_that_are(monkeypatch):
    script = Path(__file__).parents[2] / "benchmarks" / "plans.py"
    monkeypatch.setattr(sys, "argv", [str(script), "v5p-9"])
    with pytest.raises(SystemExit, match=r"no plan v5p-9; .*v5p-8"):
        runpy.run_path(str(script), run_name="__main__")
