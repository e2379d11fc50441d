"""A study of several epochs: what each step has seen, killed or not, and what is told of it."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from zsg_jax.arrangement.epochs import epochs
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import loop
from zsg_jax.workflows import study

RULES = ("ordered", "shuffled", "backward")


def run(config, workdir):
    return study.run(config, workdir, command="test")


def test_steps_run_on_from_epoch_to_epoch_whatever_stops_them(
    small_config, read_metrics, tmp_path, monkeypatch
):
    # 42 rows of 8 a step: epochs end inside steps 6 and 11, and the last step is short.
    overrides = {"training.epochs": RULES, "arrangement.methods": ("random",)}
    config = small_config(**overrides, **{"arrangement.budget": 42})
    page = run(config, tmp_path / "w").read_text()
    made = tmp_path / "w" / "arrangements" / "random"
    order = np.load(made / "order.npy")
    assert len(order) == 42
    names = dict(zip(order.tolist(), (made / "ids.txt").read_text().splitlines(), strict=True))
    seen = [names[row] for row in epochs(order, RULES, config.arrangement.seed).tolist()]
    rows = read_metrics(tmp_path / "w" / "runs" / "random-seed0")
    train = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(1, 17))
    for row in train:
        ids = "".join(f"{name}\n" for name in seen[: 8 * row["step"]])
        assert row["order_digest"] == hashlib.sha256(ids.encode()).hexdigest()
    told = json.loads((tmp_path / "w" / "runs" / "random-seed0" / "finished.json").read_text())
    assert told["instances"] == 3 * 42
    assert "ordered, then shuffled, then backward" in page
    # The similarity of what was seen is followed through the first epoch.
    assert json.loads((made / "similarity.json").read_text())["examples"][-1] == 42

    real, steps = loop.place_batch, []

    def killed(batch, mesh):
        steps.append(1)
        if len(steps) == 12:
            raise KeyboardInterrupt
        return real(batch, mesh)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "place_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "again")
    run(config, tmp_path / "again")
    assert read_metrics(tmp_path / "again" / "runs" / "random-seed0") == rows


def test_steps_at_most_are_those_of_all_epochs(small_config, tmp_path):
    two = {"training.epochs": ("shuffled", "ordered"), "training.steps": 21}
    with pytest.raises(UserError, match=r"training.steps=21, but 80 training rows make 20 steps"):
        run(small_config(**two), tmp_path)


def test_a_workdir_older_than_epochs_is_taken_as_of_one(finished, small_config, tmp_path):
    old = tmp_path / "w"
    shutil.copytree(finished, old)
    known = json.loads((old / "config.json").read_text())
    assert known.pop("training.epochs") == ["ordered"]
    (old / "config.json").write_text(json.dumps(known))
    (old / "manifest.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"training\.epochs is None there"):
        run(small_config(**{"training.epochs": ("shuffled",)}), old)
    run(small_config(), old)
