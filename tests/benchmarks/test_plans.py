"""The table of plans, from numbers written by hand, and the names it takes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "plans.py"


def module():
    spec = importlib.util.spec_from_file_location("plans", SCRIPT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_a_line_has_the_numbers_of_the_plan_and_none_where_nothing_was_compiled():
    plans = module()
    told = {
        "topology": "v5e:2x2",
        "estimate": False,
        "mesh": {"data": 1, "fsdp": 4, "tensor": 1},
        "memory": {
            **{"parameters": 1.25e9, "optimizer": 2.5e9, "temporaries": 3.04e9},
            **{"total": 6.79e9, "usable": 16.84e9},
        },
        "fits": True,
        "collectives": [{"sent": 2.04e9}, {"sent": 1e9}],
        "roofline": {"seconds": 1.234, "bound": "compute", "days": 0.5},
        "compile_seconds": 61.6,
    }
    cells = dict(zip(plans.HEAD, plans.line(told, ("model.remat=dots",)), strict=True))
    assert cells["machine"] == "v5e:2x2"
    assert cells["mesh"] == "fsdp=4"
    assert cells["of usable"] == "6.8 of 16.8"
    assert (cells["parameters"], cells["temporaries"]) == ("1.2", "3.0")
    assert (cells["step, s at least"], cells["sent, GB"]) == ("1.23 (compute)", "3.0")
    refused = {name: part for name, part in told.items() if name not in ("collectives", "roofline")}
    cells = dict(zip(plans.HEAD, plans.line(refused | {"fits": False}, ()), strict=True))
    assert (cells["fits"], cells["step, s at least"], cells["sent, GB"]) == ("no", "–", "–")


def test_a_name_that_is_none_is_told_with_those_that_are():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "v5p-9"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no plan v5p-9" in done.stderr
    assert "v5p-8" in done.stderr
