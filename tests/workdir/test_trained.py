"""A study that begins with what another study trained: the same numbers, or one line why not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from zsg_jax.runtime.errors import UserError
from zsg_jax.workdir.trained import TrainedRun, run_of
from zsg_jax.workflows import export as exporting
from zsg_jax.workflows import study
from zsg_jax.workflows.export import ExportOptions

pytestmark = pytest.mark.references

RUN = "tmta-nft-seed0"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def first(made, small_config, small_model, tmp_path):
    """A copy of the workdir of a study whose model and tokenizer were made by it."""
    done = made / "first"
    if not done.exists():
        shape = json.loads(Path(small_model).read_text())
        shape |= {"model_type": "qwen3", "head_dim": 8, "vocab_size": 280}
        shape["max_position_embeddings"] = 256
        (made / "qwen3.json").write_text(json.dumps(shape))
        changes = {"model.size": str(made / "qwen3.json")}
        changes |= {"tokenizer": "train", "tokenizer_size": 280}
        changes["evaluation.every"] = 4
        study.run(small_config(**changes), done, command="test")
    return shutil.copytree(done, tmp_path / "first")


@pytest.fixture
def going_on(first, small_config):
    """Makes the config of a study that goes on from the first one."""

    def make(init_from="", **changes):
        defaults = {
            "model.init_from": str(init_from or first / "runs" / RUN),
            "tokenizer": str(first / "tokenizer"),
            "training.steps": 1,
            "training.learning_rate": 1e-4,
        }
        return small_config(**(defaults | changes))

    return make


def losses(workdir):
    lines = (workdir / "runs" / RUN / "metrics.jsonl").read_text().splitlines()
    return [row["losses"] for row in map(json.loads, lines) if row["kind"] == "test"]


def refused(config, workdir, message):
    with pytest.raises(UserError, match=message) as caught:
        study.run(config, workdir, command="test")
    assert "\n" not in str(caught.value)


def test_a_run_goes_on_from_another_and_is_exported(first, going_on, tmp_path, read_metrics):
    transformers = pytest.importorskip("transformers")
    second, third = tmp_path / "second", tmp_path / "third"
    # What the first measured at step 8, the second measures first, with a new optimizer at step 0.
    study.run(going_on(first / "runs" / RUN / "checkpoints" / "00000008"), second, command="test")
    np.testing.assert_array_equal(losses(second)[0], losses(first)[2])
    assert losses(second)[-1] != losses(second)[0]
    (row,) = [row for row in read_metrics(second / "runs" / RUN) if row["kind"] == "train"]
    assert (row["step"], row["learning_rate"]) == (1, pytest.approx(1e-4))
    # And the third what the second measured last.
    study.run(going_on(second / "runs" / RUN), third, command="test")
    np.testing.assert_array_equal(losses(third)[0], losses(second)[-1])

    # Those before it may go: a workdir knows its model.
    shutil.rmtree(second)
    exporting.run(ExportOptions(third, RUN, tmp_path / "out"))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model).__name__ == "Qwen3ForCausalLM"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = json.loads((first / "tokenizer" / "tokenizer.json").read_text())
    assert theirs.get_vocab() == ours["model"]["vocab"]


def test_other_weights_under_the_same_name_are_refused(first, going_on, tmp_path):
    work = tmp_path / "w"
    study.run(going_on(), work, command="test")
    for folder in (work / "runs" / RUN, first / "runs" / RUN):
        (folder / "finished.json").unlink()
    shutil.rmtree(first / "runs" / RUN / "checkpoints" / "00000010")
    refused(going_on(), work, "the weights it begins with changed since")


def test_a_checkpoint_that_is_not_whole_is_refused(first, going_on, tmp_path):
    kept = first / "runs" / RUN / "checkpoints"
    for folder in kept.iterdir():
        data = max((folder / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
        content = data.read_bytes()
        data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(going_on(kept / "00000010"), tmp_path / "w", "00000010: is damaged: .*; restore it$")
    refused(going_on(), tmp_path / "w", "00000010: is damaged: .*; restore it$")
    refused(going_on(kept / "00000009"), tmp_path / "w", "whole checkpoint of step 9; kept are 8,")
    shutil.rmtree(kept)
    refused(going_on(), tmp_path / "w", "no whole checkpoint, train the run first")
    assert not (tmp_path / "w" / "embeddings").exists()


def test_what_is_no_run_or_does_not_fit_is_one_line(first, going_on, tmp_path):
    work = tmp_path / "w"
    (tmp_path / "neither").mkdir()
    for given, message in {
        tmp_path / "neither": "has no config.json, and is no run of a study; give a Hugging Face",
        tmp_path / "none": "no such folder; give a Hugging Face folder",
        "owner/name": "no such folder; .*hub:owner/name is fetched",
        first: f"is the workdir of a study; give one of its runs: .*{RUN}",
        first / "runs" / "tmta-nft-seed1": f"has {RUN}; did you mean {RUN}",
        tmp_path / "runs" / "x": "config.json: is missing; .*lies in no workdir",
    }.items():
        refused(going_on(given), work, message)
    for changes, message in (
        ({"tokenizer": "bytes"}, f"was trained with; pass --config.tokenizer={first}/tokenizer"),
        ({"tokenizer": "train", "tokenizer_size": 290}, "is not the one that .* was trained with"),
        ({"model.family": "llama"}, "model.family=llama but .* is a qwen3; leave it out"),
        ({"model.size": "qwen3_8b"}, "model.size=qwen3_8b is not the shape of"),
        ({"data.max_length": 300}, "must not pass the 256 positions of the model"),
        ({"seeds": (0, 1)}, "would train the same run 2 times"),
    ):
        refused(going_on(**changes), work, message)
    path = first / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(content))
    refused(going_on(), work, "tokenizer='train' has changed since the study was made")


@pytest.fixture
def folder(tmp_path):
    """A GPT-2 of random bfloat16 weights in a Hugging Face folder without the usual prefix."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=258, n_positions=256, n_embd=16, n_layer=2, n_head=2
    )
    path = tmp_path / "gpt2"
    transformers.GPT2LMHeadModel(config).to(torch.bfloat16).save_pretrained(path)
    return path


def test_names_and_dtypes_are_those_of_the_first_folder_while_it_is_there(
    folder, small_config, tmp_path, capsys
):
    changes = {"model.init_from": str(folder), "training.steps": 1}
    study.run(small_config(**changes), tmp_path / "a", command="test")
    changes["model.init_from"] = str(tmp_path / "a" / "runs" / RUN)
    study.run(small_config(**changes), tmp_path / "b", command="test")
    np.testing.assert_array_equal(losses(tmp_path / "b")[0], losses(tmp_path / "a")[-1])
    exporting.run(ExportOptions(tmp_path / "b", RUN, tmp_path / "out"))
    theirs, ours = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    assert {name: (one.shape, one.dtype) for name, one in ours.items()} == {
        name: (one.shape, one.dtype) for name, one in theirs.items()
    }
    assert json.loads((folder / "config.json").read_text()) == json.loads(
        (tmp_path / "out" / "config.json").read_text()
    )

    # The folder changed: what goes on from a study that began with it is refused, while a study
    # that goes on from there already is exported with names of our own.
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text + "\n")
    refused(small_config(**changes), tmp_path / "c", "gpt2' has changed since the study was made")
    capsys.readouterr()
    exporting.run(ExportOptions(tmp_path / "b", RUN, tmp_path / "own"))
    assert "is gone or has changed" in capsys.readouterr().err
    own = load_file(tmp_path / "own" / "model.safetensors")
    assert {str(one.dtype) for one in own.values()} == {"float32"}
    for name, one in ours.items():
        np.testing.assert_array_equal(own[name].astype(one.dtype), one)


def test_paths_that_are_runs(tmp_path, monkeypatch):
    run = TrainedRun(tmp_path / "w", "a-seed0")
    (tmp_path / "w" / "runs" / "a-seed0").mkdir(parents=True)
    for given, found in {
        "w/runs/a-seed0": run,
        "w/runs/a-seed0/": run,
        "w/../w/runs/a-seed0/checkpoints/00000100": run._replace(step=100),
        "w/runs/a-seed0/checkpoints": None,
        "w": None,
        "model/00000100": None,
    }.items():
        monkeypatch.chdir(tmp_path)
        assert run_of(given) == found
        assert run_of(tmp_path / given) == found
    (Path("w") / "runs" / "a-seed0" / "config.json").write_text("{}")
    assert run_of("w/runs/a-seed0") is None


def test_a_tokenizer_that_makes_other_tokens_than_the_weights_own_is_refused(
    first, going_on, tmp_path
):
    exported = exporting.run(ExportOptions(first, RUN, tmp_path / "exported"))
    other = {"init_from": str(exported), "tokenizer": "bytes"}
    told = r"tokenizer='bytes' makes other tokens .*; pass --config\.tokenizer=.*exported"
    refused(going_on(**other), tmp_path / "next", told)
