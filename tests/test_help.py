"""What every command tells of itself: soon, with an example, and every key of a config."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zsg_jax import config_help
from zsg_jax.config import default_config, flatten
from zsg_jax.config_diversity import diversity_config
from zsg_jax.config_selection import selection_config
from zsg_jax.runtime.errors import UserError

SCRIPTS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
    "scripts"
]
MODULES = sorted(home.partition(":")[0] for home in SCRIPTS.values())
# Of these the first takes a second or more by itself.
SLOW = ("jax", "orbax", "flax", "sklearn", "matplotlib", "pyarrow.parquet", "torch", "transformers")
# Runs a command, and tells last which slow modules it has imported.
RUN = """
import json, runpy, sys
sys.argv = sys.argv[1:]
module, slow = sys.argv[0], json.loads(sys.argv.pop())
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(json.dumps([end.code, [name for name in slow if name in sys.modules]]))
"""


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_wait_for_nothing_slow(module, flag):
    if (module, flag) == ("zsg_jax.prepare", "--version"):
        pytest.skip("it is the version of what is prepared")
    ran = subprocess.run(
        [sys.executable, "-c", RUN, module, flag, json.dumps(SLOW)],
        capture_output=True,
        text=True,
        check=True,
    )
    *told, last = ran.stdout.splitlines()
    assert json.loads(last) == [0, []]
    if flag == "--help":
        text = "\n".join(told)
        assert f"example:\n  python -m {module} " in text
        assert ran.stderr == ""
    else:
        assert told[0].startswith("zsg_jax ")


@pytest.mark.parametrize("make", [default_config, diversity_config])
def test_every_key_is_told_with_its_comment(make):
    told = config_help.described(make)
    keys = [key for one in told for key in one.keys]
    assert sorted(keys) == sorted(flatten(make()))
    assert [one.keys for one in told if not one.text] == []
    page = config_help.of_group(make(), "all")
    assert all(f"\n{key} = " in f"\n{page}" for key in keys)


def test_a_comparison_tells_its_grid_and_the_keys_that_it_has_of_a_study():
    config = selection_config()
    page = config_help.of_group(config, "all")
    told = [key for key in flatten(config) if f"\n{key} = " in f"\n{page}"]
    assert told == list(flatten(config))
    assert "arrangement.methods =" not in page
    assert "grid: spaces=" in config_help.groups(config)


def test_a_group_its_values_and_what_is_none():
    config = default_config()
    config.training.steps = 7
    training = config_help.of_group(config, "training")
    assert "training.steps = 7\n" in training
    assert "mesh." not in training
    # What two keys share is told once, of either.
    (shared,) = [one for one in config_help.described(default_config) if len(one.keys) == 5]
    assert shared.keys[0] == "data.natural_instructions.positive_examples"
    assert config_help.of_group(config, shared.keys[0]) == config_help.of_group(
        config, shared.keys[-1]
    )
    assert "model.lora.rank = 0" in config_help.of_group(config, "model")
    assert "steps=7, learning_rate=" in " ".join(config_help.groups(config).split())
    with pytest.raises(UserError, match="did you mean training"):
        config_help.of_group(config, "trainng")


def test_help_shows_the_config_that_is_given(commands, tmp_path):
    (group, page) = commands(
        "zsg_jax.main",
        ["--config=tmta:p3", "--config.training.steps=5", "--config.help=training"],
        ["--config", "diversity", "--help"],
        cwd=tmp_path,
    )
    assert group[0] == page[0] == 0
    assert "training.steps = 5\n" in group[1]
    assert "training.micro_batch_size = 2\n" in group[1]
    assert "grid: rules=" in page[1]
    assert "arrangement:" not in page[1]
