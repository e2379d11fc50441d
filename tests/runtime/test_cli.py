"""Overrides and names of configs, as the commands' own parser reads them."""

import json
import resource

import pytest

from zsg_jax.runtime.cli import guard, packaged_configs

# A command that prints the config that its flags give.
SHOW = """
import json, sys
from absl import flags
from ml_collections import config_flags
from zsg_jax.config import default_config, flatten
from zsg_jax.runtime.cli import loaded_config, parser

config_flags.DEFINE_config_file("config")

def run():
    parser(flatten(default_config()), lambda config, group: "")(sys.argv)
    print(json.dumps(flatten(loaded_config(flags.FLAGS["config"].value))))
"""


@pytest.fixture
def shown(commands, tmp_path):
    """The configs that the flags of several command lines give, in a folder of their own."""
    (tmp_path / "show.py").write_text(SHOW)

    def run(*several):
        ran = commands("show", *map(str.split, several), cwd=tmp_path)
        return [json.loads(out) for _, out, _ in ran]

    return run


def test_overrides_and_names(shown, tmp_path):
    # A file of a packaged config's name is the user's own.
    (tmp_path / "similarity").write_text(packaged_configs()["tmta"].read_text())
    last, preset, cleared, again, by_name, by_path, own = shown(
        "--config=tmta --config.seeds=(0,) --config.data.seed=1 --config.seeds=(1,2)"
        " -config.data.seed=4",
        "--config=tmta:p3",
        "--config=tmta:p3 --config.arrangement.budget=None --config.arrangement.w_avg=None",
        "--config=tmta --config.training.steps=None --config.training.steps=3",
        "--config turns:p3",
        f"--config {packaged_configs()['turns']}:p3",
        "--config similarity:p3",
    )
    # The last override of a key replaces the earlier ones.
    assert (last["seeds"], last["data.seed"]) == ([1, 2], 4)
    # What a preset sets can be set back to None.
    assert preset["arrangement.budget"] == 4800
    assert (cleared["arrangement.budget"], cleared["arrangement.w_avg"]) == (None, None)
    assert again["training.steps"] == 3
    assert by_name == by_path
    assert own == preset


def test_a_limit_of_the_address_space_is_told(monkeypatch, capsys):
    guarded = guard(lambda argv: None)
    for most, told in ((resource.RLIM_INFINITY, False), (8 << 30, True)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, most=most: (most, most))
        guarded([])
        assert ("limited to 8.0 GiB" in capsys.readouterr().err) == told
