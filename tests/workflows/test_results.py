import json

import numpy as np
import pytest

import zsg_jax
from zsg_jax.runtime.errors import UserError


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    small = {"rules": 4, "samples": 2, "test_rules": 2, "test_samples": 2}
    return zsg_jax.run_study(
        "tmta",
        tmp_path_factory.mktemp("study") / "workdir",
        seeds=(0, 1),
        data={"rewrites": small},
        arrangement={"methods": ("tmta-nft", "tmta-fft"), "budget": None},
        model={"size": "tiny", "pretraining": {"steps": 0}},
        training={"steps": 2, "batch_size": 4, "warmup_steps": 0},
    )


def test_a_study_gives_its_curves_as_arrays(result):
    steps, losses = result.curve("tmta-nft")
    tests = [
        [one["loss"] for one in result.records("tmta-nft", seed) if one["kind"] == "test"]
        for seed in (0, 1)
    ]
    assert steps[-1] == 2
    assert np.allclose(losses, tests)
    assert sorted(result.order("tmta-nft")) == sorted(result.order("tmta-fft"))
    assert result.page.is_file()


def test_the_order_is_that_of_the_first_epoch(result):
    config = result.workdir / "config.json"
    known = config.read_text()
    backward = json.loads(known) | {"training.epochs": ["backward", "shuffled"]}
    ahead = result.order("tmta-nft")
    try:
        config.write_text(json.dumps(backward))
        assert result.order("tmta-nft").tolist() == ahead[::-1].tolist()
    finally:
        config.write_text(known)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"seed": (0,)}, "seeds"),
        ({"training": {"step": 2}}, r"training\.step"),
        ({"training": 3}, "group"),
        ({"training": {"steps": "two"}}, r"training\.steps"),
    ],
)
def test_a_wrong_setting_is_told(settings, match, tmp_path):
    with pytest.raises(UserError, match=match):
        zsg_jax.run_study("tmta", tmp_path, **settings)


def test_a_wrong_name_is_told(result, tmp_path):
    with pytest.raises(UserError, match="tmta"):
        zsg_jax.run_study("tmtaa", tmp_path)
    with pytest.raises(UserError, match="config=3: give a ConfigDict"):
        zsg_jax.run_study(3, tmp_path)
    for wrong in ("tmta-nf", "", None, ["tmta-nft"]):
        for ask in (result.curve, result.records, result.order):
            with pytest.raises(UserError, match="is none of tmta-nft"):
                ask(wrong)
    with pytest.raises(UserError, match="seed=7 is none of 0, 1"):
        result.records("tmta-nft", 7)


def test_a_path_from_home_and_a_config_without_presets_are_taken(result, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(result.workdir.parent))
    file = tmp_path / "mine.py"
    known = json.loads((result.workdir / "config.json").read_text())
    given = {key: tuple(one) if isinstance(one, list) else one for key, one in known.items()}
    file.write_text(
        "from zsg_jax.config import default_config\n\ndef get_config():\n"
        f"    config = default_config()\n    config.update_from_flattened_dict({given!r})\n"
        "    return config\n"
    )
    again = zsg_jax.run_study(str(file), f"~/{result.workdir.name}")
    assert again.records("tmta-nft", 0) == result.records("tmta-nft", 0) != []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def get_config(\n", "SyntaxError"),
        ("x = 1\n", "no attribute 'get_config'"),
        ("def get_config(preset):\n    return 1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_config_file_that_cannot_be_loaded_is_told(content, told, tmp_path):
    (tmp_path / "mine.txt").write_text(content)
    with pytest.raises(UserError, match=f"mine.txt': the file cannot be loaded: .*{told}"):
        zsg_jax.run_study(str(tmp_path / "mine.txt"), tmp_path / "workdir")


def test_what_has_changed_since_is_not_given(result):
    run = result.workdir / "runs" / "tmta-nft-seed0"
    for file, ask in (
        (run / "metrics.jsonl", result.records),
        (result.workdir / "arrangements" / "tmta-nft" / "order.npy", result.order),
    ):
        content = file.read_bytes()
        ask("tmta-nft")
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        with pytest.raises(UserError, match=file.name):
            ask("tmta-nft")
        file.write_bytes(content)
