"""The script that runs the studies of docs/findings.md: each of its commands is one that runs."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "findings.sh"
# Stands for `python`: notes its arguments, and leaves what a study would.
NOTE = """#!{python}
import json, pathlib, sys
with open({notes!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "--workdir" in sys.argv:
    page = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1], "report", "summary.json")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("{{}}")
"""
# A command that prints the config that its flags give, if a study takes it.
CHECK = """
import json, sys
from absl import flags
from ml_collections import config_flags
from zsg_jax.config import default_config, flatten
from zsg_jax.runtime.cli import loaded_config, parser
from zsg_jax.workflows.validate import validate

config_flags.DEFINE_config_file("config")
flags.DEFINE_string("workdir", None, "")

def run():
    parser(flatten(default_config()), lambda config, group: "")(sys.argv)
    config = loaded_config(flags.FLAGS["config"].value)
    validate(config)
    print(json.dumps(flatten(config)))
"""


@pytest.fixture
def studies(commands, tmp_path):
    """Runs the script and gives workdir → config of the studies that it would have run."""

    def run(*arguments):
        bin_, notes = tmp_path / "bin", tmp_path / "notes.jsonl"
        bin_.mkdir()
        python = bin_ / "python"
        python.write_text(NOTE.format(python=sys.executable, notes=str(notes)))
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", SCRIPT, tmp_path / "w", *arguments],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        given = [json.loads(line) for line in notes.read_text().splitlines()]
        given = [one[2:] for one in given if one[:2] == ["-m", "zsg_jax.main"]]
        (tmp_path / "check.py").write_text(CHECK)
        root = SCRIPT.parents[1]
        flags = [[one.replace("configs/", f"{root}/configs/") for one in each] for each in given]
        told = commands("check", *flags, cwd=tmp_path, PYTHONPATH=str(root))
        assert not [errors for code, _, errors in told if code]
        names = [Path(one[one.index("--workdir") + 1]).name for one in given]
        assert len(set(names)) == len(names)
        return dict(zip(names, (json.loads(out) for _, out, _ in told), strict=True))

    return run


def test_the_built_in_examples_need_nothing(studies):
    found = studies()
    assert len(found) == 8
    assert all(config["data.train"].startswith("rewrites") for config in found.values())


def test_studies_of_real_rows_have_no_leaks_and_take_the_settings(studies):
    found = studies("p3", "minilm", "smollm2", "ni", "--config.training.steps=7")
    real = {name: one for name, one in found.items() if "rewrites" not in one["data.train"]}
    assert [found[name]["training.steps"] for name in found.keys() - real.keys()].count(7) == 0
    assert len(found) - len(real) == 8
    assert len(real) == 12
    for name, config in real.items():
        assert config["training.steps"] == 7
        assert config["model.init_from"] == config["tokenizer"] == "smollm2"
        expected = None if name == "held-out-leaks" else 0.95
        assert config["arrangement.drop_leaks"] == expected
    told = [name for name, one in real.items() if one["data.train"].startswith("ni/")]
    assert told == ["instructions"]
