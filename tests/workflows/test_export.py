"""A run's checkpoint as a folder: what transformers computes with it is what was measured."""

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from zsg_jax import export as export_command
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.encode import encode
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, from_folder
from zsg_jax.runtime import cli
from zsg_jax.runtime.errors import UserError
from zsg_jax.workdir import layout, lock
from zsg_jax.workflows import export as exporting
from zsg_jax.workflows import study
from zsg_jax.workflows.export import ExportOptions

pytestmark = pytest.mark.references


def losses_of(folder, examples):
    """Every instance's mean nats per answer token by transformers, one instance at a time."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for row in range(len(examples)):
        tokens, mask = examples[row]
        with torch.no_grad():
            logits = model(torch.tensor(tokens[None]).long()).logits[0].double()
        scores = torch.log_softmax(logits, -1)[:-1]
        picked = scores[np.arange(len(tokens) - 1), tokens[1:]].numpy()
        found.append(-picked[mask[1:]].mean())
    return np.asarray(found)


def test_examples(path, tokenizer, length):
    instances = []
    for line in Path(path).read_text().splitlines():
        row = json.loads(line)
        turns = tuple(Turn(**turn) for turn in row["messages"])
        instances.append(Instance(row["id"], row["task"], turns, ()))
    return encode(instances, tokenizer, length)


test_examples.__test__ = False


def last_losses(workdir, run):
    rows = [json.loads(x) for x in (workdir / "runs" / run / "metrics.jsonl").open()]
    return [row for row in rows if row["kind"] == "test"][-1]["losses"]


@pytest.mark.ci
@pytest.mark.slow
def test_a_pretrained_llama_trained_and_exported_gives_the_losses_that_were_written(
    assets, uneven, small_config, tmp_path
):
    # A copy with fields that are not ours, which must come out again.
    source = tmp_path / "source"
    shutil.copytree(assets / "models" / "stories260k", source)
    for path in (source, *source.iterdir()):
        path.chmod(0o755)
    content = json.loads((source / "config.json").read_text()) | {"transformers_version": "4.0.0"}
    (source / "config.json").write_text(json.dumps(content))
    (source / "generation_config.json").write_text('{"temperature": 0.5}')
    config = small_config(
        **uneven,
        **{"model.init_from": str(source), "tokenizer": str(source), "training.steps": 5},
        **{"training.learning_rate": 1e-3, "training.checkpoint_every": 2},
    )
    work, run = tmp_path / "w", "tmta-nft-seed0"
    study.run(config, work, command="test")
    out = tmp_path / "out"
    exporting.run(ExportOptions(work, run, out, file_gb=4e-4))
    assert len(list(out.glob("*.safetensors"))) > 1
    examples = test_examples(uneven["data.test"], from_folder(source), 256)
    measured = last_losses(work, run)
    assert np.abs(losses_of(out, examples) - measured).max() < 1e-4
    assert np.abs(losses_of(source, examples) - measured).max() > 0.1  # training did something
    assert json.loads((out / "config.json").read_text()) == content
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()

    earlier = tmp_path / "earlier"
    exporting.run(ExportOptions(work, run, earlier, step=4))
    (one,) = earlier.glob("*.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    late = {k: v for path in out.glob("*.safetensors") for k, v in load_file(path).items()}
    assert (load_file(one)[name] != late[name]).any()

    given = ExportOptions(work, run, tmp_path / "x")
    for options, message in {
        replace(given, output=out): "out: exists already; give a new folder",
        replace(given, run="tmta-nft-seed1"): "did you mean tmta-nft-seed0",
        replace(given, step=3): "no whole checkpoint of step 3; kept are 4, 5",
        replace(given, workdir=tmp_path / "no"): "config.json: is missing",
        replace(given, dtype="int8"): "--dtype int8: choose one of same, fl",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            exporting.run(options)
        assert "\n" not in str(caught.value)
    content["rope_theta"] = 1.0
    (source / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"source' (in the study )?has changed since"):
        exporting.run(given)
    assert not (tmp_path / "x").exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_fifty_steps_of_the_p3_preset_give_in_transformers_the_losses_that_were_written(
    assets, tmp_path
):
    from configs import tmta

    config, models = tmta.get_config("p3"), assets / "models"
    for side in ("train", "test"):
        config.data[side] = str(assets / "data" / "p3" / f"{side}.jsonl.gz")
    config.similarity.encoder = str(models / "all-MiniLM-L6-v2")
    config.tokenizer = config.model.init_from = str(models / "stories260k")
    # The preset, but for one order instead of three and 50 of its 300 steps.
    config.arrangement.methods = ("tmta-nft",)
    config.training.steps = 50
    config.evaluation.every = 50
    work, run, out = tmp_path / "w", "tmta-nft-seed0", tmp_path / "out"
    study.run(config, work, command="test")
    exporting.run(ExportOptions(work, run, out))
    plain = tmp_path / "test.jsonl"
    plain.write_bytes(gzip.decompress(Path(config.data.test).read_bytes()))
    examples = test_examples(plain, from_folder(config.tokenizer), 512)
    kept = examples.select(np.flatnonzero(examples.answer_tokens))
    measured = last_losses(work, run)
    difference = np.abs(losses_of(out, kept) - measured).max()
    print(f"largest difference of {len(measured)} losses: {difference:.2e}")
    assert difference < 1e-4
    assert np.abs(losses_of(models / "stories260k", kept) - measured).max() > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Qwen3Moe", {"num_experts": 6, "moe_intermediate_size": 12, "norm_topk_prob": True}),
        ("GptOss", {"num_local_experts": 4, "sliding_window": 64, "rope_scaling": None}),
    ],
)
def test_a_model_with_experts_is_loaded_trained_and_exported(
    uneven, small_config, tmp_path, name, given
):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 24, "head_dim": 8}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape |= {"num_experts_per_tok": 2, "max_position_embeddings": 512, **given}
    model = getattr(transformers, f"{name}ForCausalLM")(
        getattr(transformers, f"{name}Config")(**shape)
    )
    source, work, out = tmp_path / "source", tmp_path / "w", tmp_path / "out"
    model.save_pretrained(source)
    changes = {"model.init_from": str(source), "tokenizer": "bytes", "training.steps": 4}
    config = small_config(**uneven, **changes, **{"training.learning_rate": 1e-2})
    study.run(config, work, command="test")
    exporting.run(ExportOptions(work, "tmta-nft-seed0", out))
    examples = test_examples(uneven["data.test"], ByteTokenizer(), 256)
    measured = last_losses(work, "tmta-nft-seed0")
    assert np.abs(losses_of(out, examples) - measured).max() < 1e-4
    assert np.abs(losses_of(source, examples) - measured).max() > 0.1


@pytest.mark.parametrize("family", [pytest.param("gpt2", marks=pytest.mark.slow), "mistral"])
def test_a_model_from_scratch_with_the_tokenizer_of_bytes(
    uneven, small_config, small_model, tmp_path, family
):
    transformers = pytest.importorskip("transformers")
    changes = {"model.family": family, "training.steps": 3}
    if family == "mistral":
        shape = json.loads(Path(small_model).read_text()) | {"model_type": family}
        shape |= {"vocab_size": 258, "sliding_window": 64}
        (tmp_path / "shape.json").write_text(json.dumps(shape))
        changes["model.size"] = str(tmp_path / "shape.json")
    work, out = tmp_path / "w", tmp_path / "out"
    study.run(small_config(**uneven, **changes), work, command="test")
    exporting.run(ExportOptions(work, "tmta-nft-seed0", out))
    examples = test_examples(uneven["data.test"], ByteTokenizer(), 256)
    measured = last_losses(work, "tmta-nft-seed0")
    assert np.abs(losses_of(out, examples) - measured).max() < 1e-4
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    text = "".join(map(chr, range(1, 400))) + " Größe 🙂\n"
    assert theirs.encode(text, add_special_tokens=False) == list(text.encode())
    assert (theirs.bos_token_id, theirs.eos_token_id) == (256, 257)
    again = from_folder(out)
    assert again.encode([text])[0].ids.tolist() == list(text.encode())

    # A checkpoint that was changed is told, and nothing is written.
    data = next((work / "runs/tmta-nft-seed0/checkpoints/00000003/state").rglob("d/*"))
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(UserError, match=r"00000003: is damaged: .*; restore it$"):
        exporting.run(ExportOptions(work, "tmta-nft-seed0", tmp_path / "x", step=3))
    assert not (tmp_path / "x").exists()


def test_an_export_that_fails_leaves_nothing(uneven, small_config, tmp_path, monkeypatch, capsys):
    work = tmp_path / "w"
    study.run(small_config(**uneven, **{"training.steps": 1}), work, command="test")

    def broken(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_write_tokenizer", broken)
    with pytest.raises(OSError, match="No space"):
        exporting.run(ExportOptions(work, "tmta-nft-seed0", tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir() if path != work] == []
    monkeypatch.undo()
    # While another command writes the same folder.
    with lock.locked(tmp_path / ".out.exporting"):
        with pytest.raises(UserError, match=r"--output .* another process is at work"):
            exporting.run(ExportOptions(work, "tmta-nft-seed0", tmp_path / "out"))
        assert (tmp_path / ".out.exporting" / layout.LOCK).exists()
    flags = {"workdir": work, "run": "tmta-nft-seed0", "output": tmp_path / "out"}
    given = [f"--{name}={value}" for name, value in flags.items()]
    capsys.readouterr()
    export_command.main(["export", *given, "--dtype=bfloat16"])
    assert capsys.readouterr().out.startswith("exported: ")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in found.values()} == {"bfloat16"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["torch_dtype"], config["model_type"]) == ("bfloat16", "llama")
    shutil.rmtree(work / "runs" / "tmta-nft-seed0" / "checkpoints")
    with pytest.raises(UserError, match="no whole checkpoint, train the run first"):
        exporting.run(ExportOptions(work, "tmta-nft-seed0", tmp_path / "x"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run", "a-seed0", "--output", "x"], "--workdir"),
        (["--workdir", "", "--run", "a", "--output", "x"], "--workdir: is empty"),
        (["--workdir", __file__, "--run", "a", "--output", "x"], "config.json: is missing"),
        (["--workdir", "nope", "--run", "a", "--output", "."], "exists already"),
        (["--workdir", "w", "--run", "a", "--output", "x", "--sep", "3"], "did you mean --step?"),
        (["--workdir", "w", "--run", "a", "--output", "gs://b/x"], "gs://b/x: is no folder"),
    ],
)
def test_a_mistake_ends_in_one_line(capsys, flags, message):
    with pytest.raises(SystemExit) as caught:
        cli.guard(export_command.main)(["export", *flags])
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zsg_jax: ")
    assert message in line
