"""W&B and MLflow get the numbers of metrics.jsonl, and stop nothing where they fail."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.training.loggers import Logging, check_installed, check_loggers
from zsg_jax.training.metrics import MetricsLog, read_records


def rows(first, last):
    """A training record of every step, and a test record of every second, in a run's order."""
    found = []
    for step in range(first, last + 1):
        found.append({"step": step, "kind": "train", "loss": 4 / (1 + step), "order_digest": "a"})
        if step % 2 == 0:
            task = {"a:b": step / 8}
            found.append({"step": step, "kind": "test", "loss": 1.5 + step, "loss_by_task": task})
    return found


def write(run, name, first, last, after_step=-1):
    logging = Logging((name,), {"training.steps": 6})
    log = MetricsLog(run, after_step=after_step, logging=logging)
    for row in rows(first, last):
        log.write(row)
        log.flush()
    log.close()


def offline_records(content):
    """The records of an offline run's file: LevelDB's log format after a head of 7 bytes."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb_gets_every_number_offline(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "mine" / "runs" / "tmta-nft-seed0"
    run.mkdir(parents=True)
    write(run, "wandb", 0, 4)
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    found, shown = {}, {}
    for data in offline_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            shown = {"group": record.run.run_group, "name": record.run.display_name}
        items = {"/".join(one.nested_key) or one.key: one for one in record.history.item}
        for name, one in items.items():
            if not name.startswith("_"):
                found[record.history.step.num, name] = float(one.value_json)
    expected = {}
    for row in rows(0, 4):
        expected[row["step"], f"{row['kind']}/loss"] = row["loss"]
        for task, loss in row.get("loss_by_task", {}).items():
            expected[row["step"], f"test/loss_by_task/{task}"] = loss
    assert found == expected
    assert shown == {"group": "mine", "name": "tmta-nft-seed0"}
    assert read_records(run) == rows(0, 4)
    assert capfd.readouterr() == ("", "")


def test_mlflow_gets_every_number_once_also_of_a_run_that_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "mine" / "runs" / "tmta-nft-seed0"
    run.mkdir(parents=True)
    write(run, "mlflow", 0, 4)
    # Killed after step 4, it goes on after the checkpoint of step 3.
    write(run, "mlflow", 4, 6, after_step=3)
    client = MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (found.info.run_name, found.info.status) == ("tmta-nft-seed0", "FINISHED")
    assert found.data.params == {"training.steps": "6"}
    for kind in ("train", "test"):
        history = client.get_metric_history(found.info.run_id, f"{kind}/loss")
        expected = [(one["step"], one["loss"]) for one in rows(0, 6) if one["kind"] == kind]
        assert sorted((one.step, one.value) for one in history) == expected
    tasks = client.get_metric_history(found.info.run_id, "test/loss_by_task/a_b")
    assert [one.step for one in tasks] == [0, 2, 4, 6]


class Fails:
    """Stands for a run of wandb that begins, and then has lost its server."""

    def log(self, *given, **more):
        raise ConnectionError("no way to the server\nmore")

    finish = log


@pytest.mark.parametrize("begins", [False, True])
def test_a_logger_that_fails_is_a_line_and_the_run_goes_on(tmp_path, monkeypatch, capsys, begins):
    fake = ModuleType("wandb")
    fake.init = lambda **given: Fails() if begins else Fails().log()
    fake.Settings = SimpleNamespace
    monkeypatch.setitem(sys.modules, "wandb", fake)
    write(tmp_path, "wandb", 0, 4)
    assert read_records(tmp_path) == rows(0, 4)
    (told,) = capsys.readouterr().err.splitlines()
    assert "wandb: left out from here on: no way to the server" in told


def test_what_is_unknown_or_not_installed_is_told_before(monkeypatch):
    check_loggers(())
    check_installed(("tensorboard",))
    with pytest.raises(UserError, match=r"'wanb' is unknown.* did you mean wandb"):
        check_loggers(("tensorboard", "wanb"))
    monkeypatch.setattr("zsg_jax.training.loggers.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"mlflow is not installed; pip install 'zsg_jax\[mlflow\]'"
    ):
        check_installed(("tensorboard", "mlflow"))
