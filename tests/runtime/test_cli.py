"""Overrides and names of configs, as the commands' own parser reads them."""

import json
import subprocess
import sys

import pytest

from zsg_jax.runtime.cli import packaged_configs

# Prints the config that the flags of the command line give.
SHOW = """
import sys
from absl import flags
from ml_collections import config_flags
from zsg_jax.config import default_config, flatten
from zsg_jax.runtime.cli import loaded_config, parser
import json

config_flags.DEFINE_config_file("config")
rest = parser(flatten(default_config()))(sys.argv)
print(json.dumps(flatten(loaded_config(flags.FLAGS["config"].value))))
"""


def shown(*flags, cwd=None):
    command = [sys.executable, "-c", SHOW, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
    return json.loads(done.stdout)


def test_the_last_override_of_a_key_replaces_the_earlier_ones():
    config = shown(
        "--config=tmta",
        "--config.seeds=(0,)",
        "--config.data.seed=1",
        "--config.seeds=(1, 2)",
        "-config.data.seed=4",
    )
    assert config["seeds"] == [1, 2]
    assert config["data.seed"] == 4


def test_what_a_preset_sets_can_be_set_back_to_none():
    assert shown("--config=tmta:p3")["arrangement.budget"] == 4800
    config = shown(
        "--config=tmta:p3", "--config.arrangement.budget=None", "--config.arrangement.w_avg=None"
    )
    assert config["arrangement.budget"] is None
    assert config["arrangement.w_avg"] is None
    again = shown("--config=tmta", "--config.training.steps=None", "--config.training.steps=3")
    assert again["training.steps"] == 3


def test_a_packaged_config_goes_by_its_name_and_a_file_by_its_path(tmp_path):
    by_name = shown("--config", "turns:p3", cwd=tmp_path)
    by_path = shown("--config", f"{packaged_configs()['turns']}:p3", cwd=tmp_path)
    assert by_name == by_path
    # A file of that name is the user's own.
    (tmp_path / "turns").write_text(packaged_configs()["tmta"].read_text())
    with pytest.raises(subprocess.CalledProcessError):
        shown("--config", "turns:p4", cwd=tmp_path)
