"""A run goes on, is measured or reported only in a study that would have made what it holds."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.training import loop
from zsg_jax.workflows import afterwards, study

RUN = Path("runs/tmta-nft-seed1")
BOTH = {"seeds": (0, 1)}
WORDS = {"evaluation.texts.decoding": "greedy,max_new_tokens=2"}
TEXTS = {"evaluation.metrics": ("loss", "exact_match"), **WORDS}


@pytest.fixture
def half(small_config, monkeypatch):
    """Begins the run of seed 1 elsewhere, and is stopped there before a step."""

    def begin(elsewhere, step=1, **changes):
        place, left = loop.place_batch, [step]
        config = small_config(**{"seeds": (1,), **changes})

        def stops(*given, **named):
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return place(*given, **named)

        monkeypatch.setattr(loop, "place_batch", stops)
        with pytest.raises(KeyboardInterrupt):
            again(config, elsewhere)
        monkeypatch.setattr(loop, "place_batch", place)

    return begin


def again(config, workdir):
    return study.run(config, workdir, command="test")


def refused(config, workdir, told):
    with pytest.raises(UserError, match=told) as error:
        again(config, workdir)
    assert "\n" not in str(error.value)
    assert str(workdir) in str(error.value)


def put(elsewhere, workdir, run=RUN):
    shutil.copytree(elsewhere / run, workdir / run)


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "w")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.learning_rate", 0.02),
        ("training.weight_decay", 0.5),
        ("training.clip_norm", 0.1),
        ("training.schedule", "constant"),
        ("data.max_length", 200),
        ("arrangement.budget", 72),
        ("evaluation.max_length", 200),
    ],
)
def test_a_run_that_was_begun_by_another_config_is_refused(
    key, value, workdir, half, small_config, tmp_path
):
    half(tmp_path / "a", **{key: value})
    put(tmp_path / "a", workdir)
    refused(small_config(**BOTH), workdir, rf"seed1: was (trained|measured) with {key}={value!r}")


def test_every_run_is_looked_at_before_one_is_trained(workdir, half, small_config, tmp_path):
    half(tmp_path / "a", **{"training.learning_rate": 0.02})
    put(tmp_path / "a", workdir)
    refused(small_config(seeds=(0, 2, 1)), workdir, "seed1: was trained with training.learning")
    assert not (workdir / "runs" / "tmta-nft-seed2").exists()


def test_a_run_of_adapters_that_were_scaled_otherwise_is_refused(
    half, small_config, write_llama, tmp_path
):
    given = {"model.init_from": str(write_llama(tmp_path / "m")), "model.lora.rank": 2}
    again(small_config(**given, **{"training.steps": 1}), tmp_path / "w")
    half(tmp_path / "a", **given, **{"training.steps": 1, "model.lora.alpha": 64.0})
    put(tmp_path / "a", tmp_path / "w")
    both = small_config(**given, **{"training.steps": 1}, **BOTH)
    refused(both, tmp_path / "w", "trained with model.lora.alpha=64.0, the study has 16.0")


def test_a_run_that_was_begun_on_other_test_rows_is_refused(half, small_config, uneven, tmp_path):
    test = tmp_path / "test.jsonl"
    given = {**uneven, "data.test": str(test), "training.steps": 1}
    whole = Path(uneven["data.test"]).read_text()
    test.write_text(whole)
    again(small_config(**given), tmp_path / "w")
    test.write_text(whole.replace("green", "groan"))
    half(tmp_path / "a", **given)
    put(tmp_path / "a", tmp_path / "w")
    test.write_text(whole)
    told = "seed1: was trained on other inputs, by its test_digest"
    refused(small_config(**given, **BOTH), tmp_path / "w", told)


def test_a_checkpoint_tells_what_it_belongs_to(workdir, half, small_config, tmp_path):
    half(tmp_path / "a", step=6, **{"training.learning_rate": 0.02})
    put(tmp_path / "a", workdir)
    (workdir / RUN / "belongs.json").unlink()
    refused(small_config(**BOTH), workdir, "seed1: was trained with training.learning_rate=0.02")


def test_a_run_begun_by_an_earlier_version_goes_on(
    workdir, half, small_config, read_metrics, tmp_path
):
    half(tmp_path / "a", step=6)
    put(tmp_path / "a", workdir)
    (workdir / RUN / "belongs.json").unlink()
    checkpoint = workdir / RUN / "checkpoints" / "00000004"
    position = json.loads((checkpoint / "position.json").read_text())
    del position["config"], position["inputs"]
    (checkpoint / "position.json").write_text(json.dumps(position))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    digest = hashlib.sha256((checkpoint / "position.json").read_bytes()).hexdigest()
    manifest["position.json"] = digest
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    again(small_config(**BOTH), workdir)
    steps = [row["step"] for row in read_metrics(workdir / RUN) if row["kind"] == "train"]
    assert steps == list(range(1, 11))


@pytest.mark.ci
@pytest.mark.slow
def test_a_half_trained_run_grows_as_a_finished_one(half, small_config, read_metrics, tmp_path):
    """Steps, seeds, metrics with their settings, and a rhythm that is the same at steps taken."""
    steady = {"training.schedule": "constant", "training.checkpoint_every": 2}
    half(tmp_path / "w", step=5, **steady, **{"training.steps": 6})
    more = {**BOTH, **steady, **TEXTS, "training.steps": 8, "data.workers": 1, "mesh.data": 1}
    again(small_config(**more), tmp_path / "w")
    again(small_config(**more), tmp_path / "whole")
    told, wanted = (read_metrics(tmp_path / name / RUN) for name in ("w", "whole"))
    assert [row for row in told if row["kind"] == "train"] == [
        row for row in wanted if row["kind"] == "train"
    ]
    # A half of it from another machine takes the place of one that was begun here.
    half(tmp_path / "b", step=5, **steady, **TEXTS, **{"training.steps": 8})
    half(tmp_path / "c", step=3, **steady, **TEXTS, **{"training.steps": 8, "seeds": (1, 0)})
    shutil.rmtree(tmp_path / "c" / RUN)
    put(tmp_path / "b", tmp_path / "c")
    again(small_config(**more), tmp_path / "c")
    assert read_metrics(tmp_path / "c" / RUN) == wanted


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_by_what_texts_were_made_is_told_with_their_scores(
    killed, small_config, tmp_path, monkeypatch
):
    def grown(workdir, tokens=2, **more):
        words = {"evaluation.texts.decoding": f"greedy,max_new_tokens={tokens}"}
        again(small_config(**{"training.steps": 1, **TEXTS, **words, **more}), workdir)

    def dies(*given):
        raise KeyboardInterrupt

    again(small_config(**{"training.steps": 1, "seeds": (1,)}), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "plain")
    if killed:  # with texts that it has kept, before it has told a score
        monkeypatch.setattr(afterwards, "_append", dies)
        with pytest.raises(KeyboardInterrupt):
            grown(tmp_path / "a", seeds=(1,))
        monkeypatch.undo()
    else:
        grown(tmp_path / "a", seeds=(1,))
    assert (tmp_path / "a" / RUN / "generations.jsonl").exists()
    for tokens in (2, 3):
        grown(tmp_path / f"{tokens}", tokens)
        for name in ("plain", "a"):
            here = shutil.copytree(tmp_path / f"{tokens}", tmp_path / f"{tokens}{name}")
            put(tmp_path / name, here)
            if (name, tokens) != ("a", 3):  # what it was not asked for binds nobody
                grown(here, tokens, **BOTH)
                continue
            with pytest.raises(UserError, match=r"seed1: was measured with .*texts\.decoding="):
                grown(here, tokens, **BOTH)


@pytest.mark.ci
@pytest.mark.slow
def test_a_finished_run_that_was_measured_otherwise_is_refused(
    small_config, write_bytes_llama, tmp_path
):
    short = {"training.steps": 1, **WORDS, "evaluation.metrics": ("loss", "rouge")}
    words = [write_bytes_llama(tmp_path / name) for name in ("words", "elsewhere")]
    again(small_config(**short), tmp_path / "w")
    for number, changes in enumerate(
        (
            {"evaluation.max_length": 200},
            {"evaluation.texts.stops": ("a",)},
            {"evaluation.texts.decoding": "greedy,max_new_tokens=3"},
            {"evaluation.texts.rouge_tokenizer": str(words[0])},
        )
    ):
        again(small_config(**{**short, **changes, "seeds": (1,)}), tmp_path / f"{number}")
        here = shutil.copytree(tmp_path / "w", tmp_path / f"w{number}")
        put(tmp_path / f"{number}", here)
        (key,) = changes
        refused(small_config(**short, **BOTH), here, f"seed1: was measured with {key}=")
    # How often, in which batches, and where that lies which it is measured with, decide no record.
    rhythm = {"evaluation.every": 1, "evaluation.batch_size": 3, "seeds": (1, 5)}
    again(small_config(**{**short, **rhythm}), tmp_path / "rhythm")
    put(tmp_path / "rhythm", tmp_path / "w")
    again(small_config(**short, **BOTH), tmp_path / "w")
    moved = {**short, "evaluation.texts.rouge_tokenizer": str(words[1])}
    again(small_config(**moved), tmp_path / "moved")
    put(tmp_path / "3", tmp_path / "moved")
    again(small_config(**moved, **BOTH), tmp_path / "moved")


@pytest.mark.ci
@pytest.mark.slow
def test_pretraining_by_another_config_is_refused(half, small_config, tmp_path):
    run = Path("pretraining/pretraining-seed1")
    pretrained = {"model.pretraining.steps": 4, "training.steps": 1}
    pretrained |= {"training.checkpoint_every": 2, "model.pretraining.batch_size": 8}
    again(small_config(**pretrained), tmp_path / "w")
    other = pretrained | {"model.pretraining.learning_rate": 0.02}
    half(tmp_path / "begun", **other)
    half(tmp_path / "half", step=4, **other)
    again(small_config(**other, seeds=(1,)), tmp_path / "whole")
    both = small_config(**pretrained, **BOTH)
    for elsewhere in ("begun", "half", "whole"):
        here = shutil.copytree(tmp_path / "w", tmp_path / f"w-{elsewhere}")
        put(tmp_path / elsewhere, here, run)
        told = r"seed1: was trained with model\.pretraining\.learning_rate=0\.02"
        refused(both, here, told)
    # That of a study with another rate after it is the same.
    again(
        small_config(**pretrained, seeds=(1,), **{"training.learning_rate": 0.02}),
        tmp_path / "later",
    )
    put(tmp_path / "later", tmp_path / "w", run)
    again(both, tmp_path / "w")
