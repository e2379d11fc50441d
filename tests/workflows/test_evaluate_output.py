"""What an evaluation's records follow from is another when it is run again: that is told."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from zsg_jax.evaluation.generation import Generator
from zsg_jax.runtime.errors import UserError
from zsg_jax.training.metrics import read_run
from zsg_jax.workflows import evaluate, study
from zsg_jax.workflows.evaluate_options import EvaluateOptions

RUN = "runs/tmta-nft-seed0"
SHORT = "greedy,max_new_tokens=2"


def run(output, *checkpoints, **flags):
    flags = {"checkpoint": checkpoints, "mesh": (1, 1, 1)} | flags
    return evaluate.run(EvaluateOptions(output, **flags))


def records(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def written(folder):
    """What an evaluation has written of examples and of subjects."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.jsonl"))}


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def of_model(write_llama, uneven, tmp_path):
    """A model and the flags that evaluate it, on rows that have choices."""
    folder, test = write_llama(tmp_path / "model"), tmp_path / "test.jsonl"
    with test.open("w") as file:
        for row in records(uneven["data.test"]):
            file.write(json.dumps(row | {"choices": ["red", "green", "blue"]}) + "\n")
    flags = {"model": str(folder), "tokenizer": "bytes", "test": str(test), "max_length": 250}
    return folder, flags | {"metrics": "loss,exact_match_unicode,choices", "decoding": SHORT}


def _turn_faster(folder):
    edit_json(folder / "config.json", lambda config: config.update(rope_theta=50.0))


def _grow(folder):
    path = folder / "model.safetensors"
    save_file({name: 1.5 * one for name, one in load_file(path).items()}, path)


@pytest.mark.parametrize("change", [_turn_faster, _grow])
def test_a_model_that_changes_in_its_place_is_refused(of_model, tmp_path, change):
    folder, flags = of_model
    (first,) = records(run(tmp_path / "out", **flags))
    before = written(tmp_path / "out")
    cut = shutil.copytree(tmp_path / "out", tmp_path / "cut")
    (cut / evaluate.FILE).write_bytes(b"")  # as if killed before its record
    earlier = shutil.copytree(tmp_path / "out", tmp_path / "earlier")
    edit_json(earlier / "evaluation.json", lambda request: request.pop("read"))
    change(folder)
    for output in (tmp_path / "out", cut, earlier):
        with pytest.raises(UserError, match=r"model: its weights.*config\.json changed .*--output"):
            run(output, **flags)
    assert written(tmp_path / "out") == before
    (other,) = records(run(tmp_path / "new", **flags))
    assert other["loss"] != first["loss"]


@pytest.mark.ci
@pytest.mark.slow
def test_what_a_study_is_asked_for_later(small_config, tmp_path, monkeypatch):
    work = tmp_path / "w"
    last, fourth = str(work / RUN), str(work / RUN / "checkpoints" / "00000004")
    pace = {"training.schedule": "constant", "evaluation.every": 4}
    study.run(small_config(**pace, **{"training.steps": 4}), work, command="test")
    own = run(tmp_path / "own", fourth)
    losses = own.read_bytes()
    texts = {"metrics": "loss,exact_match_unicode", "batch_size": 8}
    run(tmp_path / "named", fourth, **texts)
    run(tmp_path / "last", last, **texts)

    # One evaluation is killed between its texts.
    write, left = Generator.write, [1]

    def dies(*given):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return write(*given)

    monkeypatch.setattr(Generator, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", fourth, **texts)
    monkeypatch.setattr(Generator, "write", write)

    asked = {"evaluation.metrics": ("loss", "exact_match_unicode", "rouge_unicode")}
    asked |= {"evaluation.texts.decoding": "study,max_new_tokens=3", "training.steps": 8}
    study.run(small_config(**pace, **asked), work, command="test")
    for name, given, step in (("named", fourth, 4), ("killed", fourth, 4), ("last", last, 8)):
        before = written(tmp_path / name)
        told = rf"seed0, step {step}: evaluation\.texts\.decoding changed .*another --output"
        with pytest.raises(UserError, match=told):
            run(tmp_path / name, given, **texts)
        assert written(tmp_path / name) == before

    # Where nothing was named, what is new is measured besides, as the study has measured it.
    run(tmp_path / "own", fourth)
    grown = written(tmp_path / "own")
    tested = [one for one in read_run(work / RUN) if one["kind"] == "test"]
    of_run = next(one for one in tested if one["step"] == 4)
    (record,) = records(own)
    assert of_run.pop("kind") == "test"
    assert not of_run.pop("not_kept")
    assert {name: record.get(name) for name in of_run} == of_run
    run(tmp_path / "own", fourth)
    assert written(tmp_path / "own") == grown
    # A kill just before the new record stood in the place of the first.
    own.write_bytes(losses)
    own.with_suffix(".sha256").unlink()
    run(tmp_path / "own", fourth)
    assert records(own) == [record]


@pytest.mark.ci
@pytest.mark.slow
def test_a_kill_in_a_later_checkpoint_spoils_none_of_an_earlier_one(
    small_config, tmp_path, monkeypatch
):
    work = tmp_path / "w"
    texts = {"evaluation.texts.decoding": SHORT, "evaluation.batch_size": 4}
    texts |= {"training.steps": 8, "training.checkpoint_every": 4, "evaluation.every": 4}
    metrics = "loss", "exact_match_unicode"
    study.run(small_config(**texts, **{"evaluation.metrics": metrics}), work, command="test")
    both = [str(work / RUN / "checkpoints" / f"{step:08}") for step in (4, 8)]
    write, done = Generator.write, []

    def counts(*given):
        done.append(1)
        if len(done) == most:
            raise KeyboardInterrupt
        return write(*given)

    monkeypatch.setattr(Generator, "write", counts)
    most = 0
    run(tmp_path / "whole", *both)
    most, _ = len(done), done.clear()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", *both)
    more = {"evaluation.metrics": (*metrics, "rouge_unicode")}
    study.run(small_config(**texts, **more), work, command="test")
    fresh = records(run(tmp_path / "fresh", *both))
    for _ in range(2):
        assert records(run(tmp_path / "out", *both)) == fresh
    kept = tmp_path / "out" / "tmta-nft-seed0" / "generations.jsonl"
    kept.write_text(kept.read_text().replace('"text": "', '"text": "a', 1))
    with pytest.raises(UserError, match=r"what the record of .* step 4 follows from"):
        run(tmp_path / "out", *both)


@pytest.fixture
def with_settings(finished, write_bytes_llama, write_reward, tmp_path):
    """Gives a copy of a study other settings, as if it had been given them later."""
    work = shutil.copytree(finished, tmp_path / "w")
    (work / "manifest.json").unlink()
    plain = {"decoding": SHORT, "reward_model": str(write_reward(tmp_path / "reward"))}
    template = tmp_path / "reward.jinja"
    template.write_text("{% for one in messages %}{{ one.content }}{% endfor %}")
    files = {"rouge_tokenizer": write_bytes_llama(tmp_path / "words"), "reward_template": template}

    def change(**texts):
        texts = {key: str(files[key]) if one is True else one for key, one in texts.items()}
        settings = {f"evaluation.texts.{key}": one for key, one in (plain | texts).items()}
        edit_json(work / "config.json", lambda config: config.update(settings))
        return str(work / RUN)

    return change


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        ({"decoding": "greedy,max_new_tokens=3"}, r"evaluation\.texts\.decoding"),
        ({"decoding": f"{SHORT},seed=1"}, r"evaluation\.texts\.decoding"),
        ({"stops": ["a"]}, r"evaluation\.texts\.stops"),
        ({"rouge_tokenizer": True}, "the tokenizer whose words ROUGE counts"),
        ({"reward_template": True}, "template of the reward model"),
        ({"reward_dtype": "bfloat16"}, r"evaluation\.texts\.reward_dtype"),
    ],
)
def test_how_texts_are_made_and_scored_stands_with_them(
    with_settings, uneven, tmp_path, texts, told
):
    loss = {"test": uneven["data.test"], "metrics": "loss"}
    given = loss | {"metrics": "rouge,reward"}
    run(tmp_path / "out", with_settings(), **given)
    run(tmp_path / "loss", with_settings(reward_model=""), **loss)
    before = written(tmp_path / "out")
    run(tmp_path / "out", with_settings(decoding="max_new_tokens = 2, temperature=0.0"), **given)
    with pytest.raises(UserError, match=f"step 10: .*{told} changed since it was measured"):
        run(tmp_path / "out", with_settings(**texts), **given)
    assert written(tmp_path / "out") == before
    # A loss does not follow from it.
    run(tmp_path / "loss", with_settings(reward_model="", decoding="study"), **loss)


def test_a_demonstration_that_no_prompt_shows_is_seen(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks.txt").write_text("task1_say\n")

    def write(shown):
        example = {"input": "1", "output": shown, "explanation": ""}
        asked = [{"id": f"task1-{n}", "input": str(n), "output": [f"n {n}"]} for n in range(3)]
        task = {"Definition": ["Say."], "Positive Examples": [example], "Negative Examples": []}
        path = tmp_path / "tasks" / "task1_say.json"
        path.write_text(json.dumps(task | {"Instances": asked}))

    given = {"test": str(tmp_path / "tasks.txt"), "natural_instructions": "positive_examples=0"}
    write("n 1")
    for baseline in ("copy_demonstration", "copy_input"):
        run(tmp_path / baseline, baseline=baseline, **given)
    write("n 7")
    with pytest.raises(UserError, match="copy_demonstration: what the baseline copies changed"):
        run(tmp_path / "copy_demonstration", baseline="copy_demonstration", **given)
    run(tmp_path / "copy_input", baseline="copy_input", **given)


def _flip(path):
    content = path.read_bytes()
    place = content.index(b'": ') + 3
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def _shorten(path):
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize("harm", [_flip, _shorten, Path.unlink])
@pytest.mark.parametrize("name", ["generations", "scores"])
def test_records_of_examples_that_changed_are_refused(of_model, tmp_path, name, harm):
    out, (_, flags) = tmp_path / "out", of_model
    run(out, **flags)
    whole = written(out)
    path = out / f"{name}.jsonl"
    harm(path)
    with pytest.raises(UserError, match=rf"{name}\.jsonl: is not what the record of .*put it back"):
        run(out, **flags)
    path.write_bytes(whole[path])
    run(out, **flags)
    assert written(out) == whole
    # Evaluations of earlier versions tell nothing of them; from then on they are guarded.
    edit_json(out / "evaluation.json", lambda request: request.update(read={}))
    run(out, **flags)
    harm(path)
    with pytest.raises(UserError, match=rf"{name}\.jsonl: is not what"):
        run(out, **flags)


def test_given_texts_that_changed_are_refused(uneven, tmp_path):
    given = {"test": uneven["data.test"], "baseline": "copy_input", "metrics": "rouge"}
    run(tmp_path / "out", **given)
    _flip(tmp_path / "out" / "generations.jsonl")
    with pytest.raises(UserError, match=r"generations\.jsonl: is not what the record of copy_in"):
        run(tmp_path / "out", **given)
