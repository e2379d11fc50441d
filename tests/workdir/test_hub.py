"""Names of the hub, whose library is replaced by a folder: what is asked for, what is told."""

import fnmatch
import json
import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file

from zsg_jax.data.tokenize.tokenizer import train_bpe
from zsg_jax.runtime.errors import UserError
from zsg_jax.workdir import hub
from zsg_jax.workflows import arrange, evaluate, study
from zsg_jax.workflows import export as exporting
from zsg_jax.workflows.arrange_options import ArrangeOptions
from zsg_jax.workflows.evaluate_options import EvaluateOptions

RUN = "tmta-nft-seed0"
NAME = "hub:owner/tiny"


class FakeHub:
    """A repository whose branch main moves, and a cache, as snapshot_download has them."""

    def __init__(self, folder):
        self.repository, self.cache = folder / "repository", folder / "cache"
        self.commit, self.online, self.asked = "a" * 40, True, []
        self.refusal = None

    def snapshot_download(
        self, repository, *, revision, allow_patterns, ignore_patterns, local_files_only
    ):
        assert repository == "owner/tiny"
        kept = self.cache / (self.commit if revision in (None, "main") else revision)
        if local_files_only or not self.online:
            if not kept.is_dir():
                raise errors.LocalEntryNotFoundError("cannot find it in the local cache")
            return str(kept)
        if self.refusal:
            raise self.refusal
        self.asked.append(revision)
        for path in (one for one in self.repository.rglob("*") if one.is_file()):
            name = str(path.relative_to(self.repository))
            if any(fnmatch.fnmatch(name, one) for one in allow_patterns) and not any(
                fnmatch.fnmatch(name, one) for one in ignore_patterns
            ):
                (kept / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, kept / name)
        return str(kept)


@pytest.fixture
def fake(tmp_path, write_llama, monkeypatch):
    """A repository with a tiny Llama, its tokenizer, and what must not be fetched."""
    one = FakeHub(tmp_path)
    folder = one.repository
    (folder / "original").mkdir(parents=True)
    tokenizer = train_bpe(["Replace the first of these", "by those"], 270)
    tokenizer.save(folder)
    write_llama(folder, vocab_size=270)
    for name in (
        "pytorch_model.bin",
        "modeling_tiny.py",
        "consolidated.safetensors",
        "original/model.safetensors",
        "README.md",
    ):
        (folder / name).write_bytes(b"not to be fetched")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", one.snapshot_download)
    return one


@pytest.fixture
def config(small_config):
    return small_config(
        **{"model.init_from": NAME, "tokenizer": NAME, "training.steps": 1, "data.max_length": 200}
    )


def run(config, workdir):
    return study.run(config, workdir, command="test")


@pytest.mark.ci
@pytest.mark.slow
def test_a_study_takes_the_commit_it_began_with_and_no_code(
    fake, config, tmp_path, read_metrics, capsys
):
    work = tmp_path / "w"
    page = run(config, work)
    assert f"{NAME}: is taken at commit {'a' * 40}" in capsys.readouterr().err
    assert fake.asked == [None]
    (kept,) = fake.cache.iterdir()
    assert sorted(path.name for path in kept.rglob("*")) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert NAME in page.read_text()
    assert str(fake.cache) not in page.read_text()
    before = read_metrics(work / "runs" / RUN)

    # The branch moves on to other weights; the workdir does not, nor does it ask.
    fake.commit = "b" * 40
    weights = fake.repository / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\0")
    shutil.rmtree(work / "runs")
    fake.online = False
    run(config, work)
    assert read_metrics(work / "runs" / RUN) == before
    exporting.run(exporting.ExportOptions(work, RUN, tmp_path / "out"))
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    assert fake.asked == [None]

    # Where the cache has lost it, that same commit is fetched; here it holds something else.
    fake.online = True
    shutil.rmtree(fake.cache)
    shutil.rmtree(work / "runs")
    with pytest.raises(UserError, match=r"weights it begins with changed since"):
        run(config, work)
    assert fake.asked == [None, "a" * 40]

    # A new workdir takes the branch as it is now, and a name with a revision that one.
    (tmp_path / "new").mkdir()
    hub.fetch(tmp_path / "new", models=[NAME], tokenizers=[NAME])
    assert json.loads((tmp_path / "new" / "hub.json").read_text())[NAME]["commit"] == "b" * 40
    pinned = f"{NAME}@{'c' * 40}"
    (tmp_path / "pinned").mkdir()
    hub.fetch(tmp_path / "pinned", models=[""], tokenizers=[pinned])
    folder = hub.folder(pinned, tmp_path / "pinned")
    assert folder == str(fake.cache / ("c" * 40))
    assert not list((fake.cache / ("c" * 40)).glob("*.safetensors"))


@pytest.mark.ci
@pytest.mark.slow
def test_a_reward_model_is_taken_by_name_in_a_study_and_alone(
    fake, small_config, tmp_path, read_metrics
):
    weights = fake.repository / "model.safetensors"
    head = {"score.weight": np.linspace(-1, 1, 16, dtype=np.float32)[None]}
    save_file(load_file(weights) | head, weights)
    config = small_config(
        **{
            "training.steps": 1,
            "evaluation.metrics": ("loss", "reward"),
            "evaluation.texts.decoding": "greedy,max_new_tokens=2",
            "evaluation.texts.reward_model": NAME,
        }
    )
    run(config, tmp_path / "w")
    *_, of_run = read_metrics(tmp_path / "w" / "runs" / RUN)
    assert fake.asked == [None]
    fake.online = False
    named = {"checkpoint": (str(tmp_path / "w" / "runs" / RUN),), "mesh": (1, 1, 1)}
    alone = json.loads(evaluate.run(EvaluateOptions(tmp_path / "one", **named)).read_text())
    fake.online = True
    named |= {"metrics": "reward", "reward_model": NAME}
    again = json.loads(evaluate.run(EvaluateOptions(tmp_path / "two", **named)).read_text())
    assert fake.asked == [None, None]
    for name in ("reward", "reward_by_task"):
        assert alone[name] == of_run[name] == again[name]


def make_encoder(folder):
    """The Llama in a folder as an encoder in the layout of sentence-transformers."""
    weights = folder / "model.safetensors"
    norms = {f"model.layers.0.self_attn.{one}_norm.weight": np.ones(8, np.float32) for one in "qk"}
    save_file(load_file(weights) | norms, weights)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 8}
    (folder / "config.json").write_text(json.dumps(config))
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Dense": "2_Dense", "Normalize": "3_N"}
    modules = [
        {"type": f"sentence_transformers.models.{kind}", "path": path}
        for kind, path in paths.items()
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for name, values in {
        "1_Pooling": {"pooling_mode": "lasttoken", "embedding_dimension": 16},
        "2_Dense": {"in_features": 16, "out_features": 5, "bias": False},
    }.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(values))
    kernel = np.random.default_rng(0).normal(size=(5, 16)).astype(np.float32)
    save_file({"linear.weight": kernel}, folder / "2_Dense" / "model.safetensors")
    for name in ("onnx/model.onnx", "openvino/config.json", "2_Dense/pytorch_model.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not to be fetched")


def test_an_encoder_is_taken_by_name_with_its_modules(fake, tmp_path):
    make_encoder(fake.repository)
    for side, words in (("train", ("one", "two", "three", "two words")), ("test", ("two",))):
        lines = (json.dumps({"prompt": one, "completion": one}) + "\n" for one in words)
        (tmp_path / f"{side}.jsonl").write_text("".join(lines))
    sides = {side: str(tmp_path / f"{side}.jsonl") for side in ("train", "test")}

    def order(encoder, output):
        arrange.run(ArrangeOptions(**sides, output=tmp_path / output, encoder=encoder))
        facts = json.loads((tmp_path / output / "arrangement.json").read_text())["provenance"]
        return np.load(tmp_path / output / "order.npy").tolist(), facts

    by_name, facts = order(NAME, "named")
    assert facts["encoder"] == "owner/tiny"
    (kept,) = fake.cache.iterdir()
    names = {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()}
    assert names == {
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "config.json",
        "model.safetensors",
        "modules.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    by_folder, alone = order(str(fake.repository), "alone")
    assert by_name == by_folder
    assert facts["encoder_digest"] == alone["encoder_digest"]

    # Embeddings that are kept keep to their commit, without asking.
    fake.commit, fake.online = "b" * 40, False
    assert order(NAME, "named")[0] == by_name
    assert fake.asked == [None]
    with pytest.raises(UserError, match=r"is not in the cache and the hub cannot be reached"):
        order(NAME, "other")


def test_the_states_of_a_model_are_taken_by_its_name(fake, tmp_path):
    sides = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    for name, path in sides.items():
        rows = [{"prompt": f"{name} {i}", "completion": "by those" * (i + 1)} for i in range(6)]
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def order(model, output):
        encoder = f"states:{model},pooling=mean"
        arrange.run(ArrangeOptions(**sides, output=tmp_path / output, encoder=encoder))
        facts = json.loads((tmp_path / output / "arrangement.json").read_text())["provenance"]
        return np.load(tmp_path / output / "order.npy").tolist(), facts

    by_name, facts = order(NAME, "named")
    assert facts["encoder"].startswith("states:owner/tiny,layer=1,pooling=mean")
    (kept,) = fake.cache.iterdir()
    assert {path.name for path in kept.iterdir()} == {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    }
    by_folder, alone = order(str(fake.repository), "alone")
    assert by_name == by_folder
    assert facts["encoder_digest"] == alone["encoder_digest"]
    fake.commit, fake.online = "b" * 40, False
    assert order(NAME, "named")[0] == by_name


def refusal(kind):
    """The error as it is caught; the answer that it is made from differs by version."""
    return kind.__new__(kind, "many lines\nof advice")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        (
            NAME,
            lambda: refusal(errors.GatedRepoError),
            "consent; give it on https://hugg.*/tiny,",
        ),
        (
            NAME,
            lambda: refusal(errors.RepositoryNotFoundError),
            "is not on the hub, or is priv",
        ),
        (
            f"{NAME}@v2",
            lambda: refusal(errors.RevisionNotFoundError),
            "has no revision v2; ch",
        ),
        (
            NAME,
            lambda: errors.LocalEntryNotFoundError("x"),
            "cannot be reached; go online once, or",
        ),
        (NAME, lambda: errors.OfflineModeIsEnabled("x"), "cannot be reached; go online once"),
        (NAME, lambda: OSError(28, "No space left"), "cannot be fetched: .*No space left; try"),
        ("hub:", None, "is no name of the hub; write hub:OWNER/NAME"),
        ("hub:a/b/c", None, "is no name of the hub"),
        ("hub:../x", None, "is no name of the hub"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(fake, config, tmp_path, name, make, message):
    fake.refusal = make and make()
    config.model.init_from = name
    with pytest.raises(UserError, match=message) as caught:
        run(config, tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "w" / "hub.json").exists()


def test_without_huggingface_hub_a_name_says_how_to_install_it(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub, or give a local folder"):
        run(config, tmp_path / "w")


def test_a_model_becomes_a_tokenizer_too_at_the_same_commit(fake, tmp_path):
    hub.fetch(tmp_path, models=[NAME])
    assert not (Path(hub.folder(NAME, tmp_path)) / "tokenizer.json").exists()
    fake.commit = "b" * 40
    hub.fetch(tmp_path, tokenizers=[NAME])
    taken = Path(hub.folder(NAME, tmp_path))
    assert taken.name == "a" * 40
    assert all((taken / one).exists() for one in ("tokenizer.json", "model.safetensors"))
    hub.fetch(tmp_path, models=[NAME], tokenizers=[NAME])
    assert fake.asked == [None, "a" * 40]


def test_a_part_takes_the_commit_of_what_it_is_a_part_of(fake, tmp_path):
    root, start, part = (tmp_path / name for name in ("root", "start", "part"))
    hub.fetch(root, encoders=[NAME])
    fake.commit = "b" * 40
    hub.fetch(part, models=[NAME], like=(start, root))
    assert Path(hub.folder(NAME, part)).name == "a" * 40
    hub.fetch(start, models=[NAME], like=())
    assert Path(hub.folder(NAME, start)).name == "b" * 40


def test_a_workdir_that_never_fetched_a_name_says_so(tmp_path):
    with pytest.raises(UserError, match=r"hub.json names no commit of it; run the study there"):
        hub.folder(NAME, tmp_path)
    assert hub.folder("a/b", None) == "a/b"
