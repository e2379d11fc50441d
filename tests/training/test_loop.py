import multiprocessing
import time

import pytest

from zsg_jax.data.batches.pipeline import Batches
from zsg_jax.data.batches.steps import Steps
from zsg_jax.data.tokenize import store as tokens
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import metrics
from zsg_jax.workflows import study

RUN = "runs/tmta-nft-seed0"


def train(config, workdir):
    return study.run(config, workdir, command="test")


@pytest.mark.ci
@pytest.mark.slow
def test_a_run_goes_on_with_other_workers_and_reads_its_tokens(
    finished, small_config, read_metrics, tmp_path, monkeypatch
):
    expected = read_metrics(finished / RUN)
    workdir, write = tmp_path / "stopped", metrics.MetricsLog.write

    def stop(self, row):
        write(self, row)
        if (row["step"], row["kind"]) == (7, "train"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(metrics.MetricsLog, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            train(small_config(**{"data.workers": 1}), workdir)
    assert not multiprocessing.active_children()

    def refuse(*args, **options):
        raise AssertionError("tokenized again")

    monkeypatch.setattr(tokens, "encode", refuse)
    train(small_config(), workdir)
    assert read_metrics(workdir / RUN) == expected
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("packing", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_batch_that_the_arrangement_does_not_list_ends_the_run(
    small_config, tmp_path, monkeypatch, packing
):
    laid = Steps.__getitem__

    def swapped(self, step):
        return laid(self, {4: 5, 5: 4}.get(int(step), step))

    monkeypatch.setattr(Steps, "__getitem__", swapped)
    with pytest.raises(UserError, match="at step 5 the devices took other instances"):
        train(small_config(**{"training.packing": packing}), tmp_path)
    taken = [row["step"] for row in metrics.read_records(tmp_path / RUN) if row["kind"] == "train"]
    assert taken[-1] < 5


def test_what_a_step_waits_for_its_batch_is_told(small_config, tmp_path, monkeypatch, capsys):
    laid, seconds = Batches.__next__, 0.2

    def slow(self):
        time.sleep(seconds)
        return laid(self)

    monkeypatch.setattr(Batches, "__next__", slow)
    page = train(small_config(), tmp_path)
    rows = [row for row in metrics.read_records(tmp_path / RUN) if row["kind"] == "train"]
    assert len(rows) == 10
    # In full, also where the devices were at work meanwhile.
    assert all(row["data_wait"] >= seconds for row in rows)
    waited, whole = (sum(row[name] for row in rows) for name in ("data_wait", "seconds"))
    assert whole > waited
    assert (
        f"{waited / whole:.1%} of the steps' seconds waiting for data, " in capsys.readouterr().err
    )
    assert f"{waited / whole:.2%} of the seconds in training steps" in page.read_text()
