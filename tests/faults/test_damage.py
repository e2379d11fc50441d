"""What was written and is gone, changed or damaged is named; nothing starts over in silence."""

import json
import shutil

import jax
import numpy as np
import pytest

from zsg_jax.models import model
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import loop
from zsg_jax.workflows import study

RUN = "runs/tmta-nft-seed0"


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of a finished workdir."""
    return shutil.copytree(finished, tmp_path / "w")


def again(config, workdir):
    return study.run(config, workdir, command="test")


def unfinish(workdir):
    (workdir / RUN / "finished.json").unlink()


def refused(config, workdir, message):
    with pytest.raises(UserError, match=message) as caught:
        again(config, workdir)
    assert "\n" not in str(caught.value)


def test_lost_checkpoints_are_no_silent_restart(workdir, small_config):
    unfinish(workdir)
    metrics = (workdir / RUN / "metrics.jsonl").read_bytes()
    for path in (workdir / RUN / "checkpoints").rglob("manifest.json"):
        path.unlink()
    refused(small_config(), workdir, "holds no whole checkpoint, although .* taken step 10")
    shutil.rmtree(workdir / RUN / "checkpoints")
    refused(small_config(), workdir, "delete .* to train this run from the start")
    assert (workdir / RUN / "metrics.jsonl").read_bytes() == metrics
    shutil.rmtree(workdir / RUN)
    again(small_config(), workdir)


@pytest.mark.parametrize(
    "harm",
    [
        lambda lines: lines[1:],
        lambda lines: [line for line in lines if '"step": 3, "kind": "test"' not in line],
        lambda lines: [line.replace('"order_digest": "', '"order_digest": "0') for line in lines],
        lambda lines: [*lines[:4], lines[3], *lines[4:]],
    ],
)
def test_metrics_that_were_written_must_be_there_on_a_resume(workdir, small_config, harm):
    unfinish(workdir)
    path = workdir / RUN / "metrics.jsonl"
    path.write_text("".join(harm(path.read_text().splitlines(keepends=True))))
    refused(small_config(), workdir, "does not hold the rows of steps 0 to 10")


def test_a_finished_run_whose_metrics_changed_is_not_reported(workdir, small_config):
    path = workdir / RUN / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    refused(small_config(), workdir, "is not what the run finished with")


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("config.json", ["[]", "{"], "config.json: is damaged"),
        ("data.json", ["{}", "[]", "null", None], "data.json: is (damaged|missing)"),
        ("arrangements/tmta-nft/similarity.json", ["{}", None], "similarity.json: is (dam|miss)"),
        ("arrangements/tmta-nft/order.npy", ["x", None], "order.npy"),
        (f"{RUN}/finished.json", ["[]", "{}"], "finished.json: is damaged"),
    ],
)
def test_damage_is_one_line(workdir, small_config, name, contents, message):
    for content in contents:
        if content is None:
            (workdir / name).unlink()
        else:
            (workdir / name).write_text(content)
        refused(small_config(), workdir, message)


def test_a_run_without_its_end_goes_on(workdir, small_config, read_metrics, capsys):
    expected = read_metrics(workdir / RUN)
    unfinish(workdir)
    again(small_config(), workdir)
    assert read_metrics(workdir / RUN) == expected
    assert "going on after step 10" in capsys.readouterr().err


def test_damaged_tokens_are_named_and_made_again(workdir, small_config, read_metrics, capsys):
    expected = read_metrics(workdir / RUN)
    shutil.rmtree(workdir / RUN)
    path = workdir / "tokens" / "train" / "00000" / "tokens.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"zz")
    again(small_config(), workdir)
    assert f"{path} does not have the checksum" in capsys.readouterr().err
    assert path.read_bytes() == whole
    assert read_metrics(workdir / RUN) == expected


def test_another_tokenizer_under_the_same_name_is_refused(small_config, tmp_path):
    config = small_config(**{"tokenizer": "train", "tokenizer_size": 280, "training.steps": 1})
    again(config, tmp_path / "w")
    unfinish(tmp_path / "w")
    path = tmp_path / "w" / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(content))
    refused(config, tmp_path / "w", "the tokenizer changed since it was made")


@pytest.fixture
def folder(tmp_path):
    """A tiny Llama in a Hugging Face folder, and a function that writes its weights."""
    from safetensors.numpy import save_file

    config = {
        "model_type": "llama",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 300,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    path = tmp_path / "llama"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))

    def write(seed, poison=False):
        rng = np.random.default_rng(seed)
        shapes = {
            "model.embed_tokens.weight": (300, 16),
            "model.norm.weight": (16,),
            "model.layers.0.input_layernorm.weight": (16,),
            "model.layers.0.post_attention_layernorm.weight": (16,),
            "model.layers.0.mlp.gate_proj.weight": (24, 16),
            "model.layers.0.mlp.up_proj.weight": (24, 16),
            "model.layers.0.mlp.down_proj.weight": (16, 24),
            **{f"model.layers.0.self_attn.{p}_proj.weight": (16, 16) for p in "qkvo"},
        }
        tensors = {k: rng.normal(size=s).astype(np.float32) * 0.1 for k, s in shapes.items()}
        if poison:
            tensors["model.embed_tokens.weight"][ord("a")] = np.nan
        save_file(tensors, path / "model.safetensors")
        return path

    return write


def test_other_weights_under_the_same_name_are_refused(small_config, folder, tmp_path):
    path = folder(0)
    config = small_config(**{"model.init_from": str(path), "training.steps": 1})
    again(config, tmp_path / "w")
    unfinish(tmp_path / "w")
    folder(1)
    refused(config, tmp_path / "w", "the weights of model.init_from changed since")


def test_a_nan_in_the_weights_is_named_by_test_row(small_config, folder, tmp_path):
    config = small_config(**{"model.init_from": str(folder(0, poison=True))})
    refused(config, tmp_path / "w", r"test loss is nan at step 0, by \d+ of 12 test rows, such as")


def test_weights_that_do_not_fit_are_refused_before_anything_is_embedded(
    small_config, folder, tmp_path
):
    path = folder(0) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    config = small_config(**{"model.init_from": str(path.parent)})
    refused(config, tmp_path / "w", "truncated or damaged")
    assert not (tmp_path / "w" / "embeddings").exists()


def test_arrangements_of_other_instances_are_refused(workdir, small_config):
    unfinish(workdir)
    path = workdir / "arrangements" / "tmta-nft" / "arrangement.json"
    content = json.loads(path.read_text())
    content["provenance"]["train_digest"] = "other"
    path.write_text(json.dumps(content))
    refused(small_config(), workdir, "was made from other instances")


def test_a_run_that_stops_at_a_nan_keeps_what_it_had(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Checkpoints, "save", lambda *args: None)
    real = model.hidden

    def poisoned(*args):
        x, head = real(*args)
        return x * jax.numpy.nan, head

    monkeypatch.setattr(model, "hidden", poisoned)
    refused(small_config(), tmp_path / "w", "test loss is nan at step 0, by 12 of 12")
