import pytest

from zsg_jax.errors import UserError
from zsg_jax.workdir import CONFIG, claim, claim_data, locked

CONFIG_A = {"seeds": [0, 1], "training.batch_size": 16, "mesh.data": 1, "report.title": "a"}


def test_a_workdir_belongs_to_one_config(tmp_path):
    folder = tmp_path / "w"
    claim(folder, CONFIG_A, write=True)
    claim(folder, CONFIG_A, write=True)
    claim(folder, {**CONFIG_A, "mesh.data": 8, "report.title": "b"}, write=True)
    other = {**CONFIG_A, "seeds": [0], "training.batch_size": 8}
    with pytest.raises(UserError) as caught:
        claim(folder, other, write=True)
    message = str(caught.value)
    assert "seeds is [0, 1] there, [0] here" in message
    assert "training.batch_size is 16 there, 8 here" in message
    assert "mesh" not in message
    assert "\n" not in message


def test_folders_that_are_not_ours_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=f"holds files but no {CONFIG}"):
        claim(tmp_path, CONFIG_A, write=True)
    with pytest.raises(UserError, match="is a file"):
        claim(tmp_path / "thesis.txt", CONFIG_A, write=True)


def test_a_damaged_config_is_named(tmp_path):
    claim(tmp_path, CONFIG_A, write=True)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(UserError, match=r"config\.json: is damaged"):
        claim(tmp_path, CONFIG_A, write=True)


def test_data_that_changed_are_refused(tmp_path):
    facts = {"train_digest": "a", "test_digest": "b", "train_rows": 3}
    claim_data(tmp_path, facts, write=True)
    claim_data(tmp_path, facts, write=True)
    for side in ("train", "test"):
        with pytest.raises(UserError, match=f"the {side} instances have changed"):
            claim_data(tmp_path, {**facts, f"{side}_digest": "c"}, write=True)


def test_two_processes_do_not_share_a_workdir(tmp_path):
    with (
        locked(tmp_path),
        locked(tmp_path, active=False),
        pytest.raises(UserError, match="another process is at work there"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass
