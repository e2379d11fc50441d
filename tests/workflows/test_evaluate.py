"""Checkpoints evaluated alone: the run's own numbers, on any mesh."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.evaluation.records import GENERATIONS
from zsg_jax.runtime.errors import UserError
from zsg_jax.workflows import evaluate, prepare, study
from zsg_jax.workflows.evaluate_options import EvaluateOptions
from zsg_jax.workflows.prepare_options import PrepareOptions

ROOT = Path(__file__).parents[2]
RUN = "runs/tmta-nft-seed0"


def run(output, *checkpoints, **flags):
    flags = {"checkpoint": checkpoints, "mesh": (1, 1, 1)} | flags
    return evaluate.run(EvaluateOptions(output, **flags))


def records(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_alone_a_checkpoint_gives_the_record_of_its_run(finished, read_metrics, tmp_path):
    recorded = {one["step"]: one for one in read_metrics(finished / RUN) if one["kind"] == "test"}
    one = tmp_path / "one"
    # A mistaken call leaves an empty file, which does not refuse the corrected one.
    with pytest.raises(UserError, match="whole checkpoint of step 9; kept are 8, 10"):
        run(one, str(finished / RUN / "checkpoints/00000009"))
    named = [str(finished / RUN / "checkpoints" / "00000008"), str(finished / RUN)]
    written = run(one, *named)
    alone = records(written)
    assert [record["step"] for record in alone] == [8, 10]
    of_run = recorded[10]
    assert {field: alone[1][field] for field in of_run if field != "kind"} == {
        field: value for field, value in of_run.items() if field != "kind"
    }

    # Steps of 8 rows could not be trained on this mesh.
    command = ["-m", "zsg_jax.evaluate", "--checkpoint", *named, "--output", "twelve"]
    flags = "--xla_force_host_platform_device_count=12 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, *command, "--mesh=3,2,2"], check=True, cwd=tmp_path, env=environment
    )
    for record, split in zip(alone, records(tmp_path / "twelve" / written.name), strict=True):
        assert split.keys() == record.keys()
        np.testing.assert_allclose(split["losses"], record["losses"], rtol=1e-5)
        assert split["step"] == record["step"]

    before = written.read_bytes()
    # The same again is done already; something else is not mixed with it.
    assert run(one, *named).read_bytes() == before
    with pytest.raises(UserError, match="holds another evaluation"):
        run(one, *named, metrics="loss,rouge")
    with pytest.raises(UserError, match="tmta-nft-seed0"):
        run(tmp_path / "none", str(finished / "runs/tmta-nft-seed7"))


@pytest.mark.ci
@pytest.mark.slow
def test_checkpoints_and_folders_give_a_runs_texts(small_config, write_llama, uneven, tmp_path):
    folder = write_llama(tmp_path / "model")
    config = small_config(
        **uneven,
        **{
            "model.init_from": str(folder),
            "tokenizer": "bytes",
            "training.steps": 6,
            "evaluation.metrics": ("loss", "exact_match_unicode", "rouge_unicode"),
            "evaluation.texts.decoding": "greedy,max_new_tokens=5",
        },
    )
    study.run(config, tmp_path / "w", command="test")
    kept = (tmp_path / "w" / RUN / GENERATIONS).read_bytes().splitlines()
    done = run(tmp_path / "run", str(tmp_path / "w" / RUN))
    assert (tmp_path / "run" / Path(RUN).name / GENERATIONS).read_bytes().splitlines() == kept[18:]

    # Step 0 is the folder's own weights.
    flags = {"metrics": "loss,exact_match_unicode,rouge_unicode", "test": uneven["data.test"]}
    flags |= {"decoding": "greedy,max_new_tokens=5"}
    alone = {"model": str(folder), "tokenizer": "bytes", "max_length": 250, **flags}
    of_folder = run(tmp_path / "folder", **alone)
    assert (of_folder.parent / GENERATIONS).read_bytes().splitlines() == kept[:18]

    # What is wrong is told by this command's flags.
    with pytest.raises(UserError, match="left; raise --max-length, or pass --truncation=head"):
        run(tmp_path / "short", **alone | {"max_length": 3})

    # What stands in the records gives the same means again, whoever wrote the text.
    texts = tmp_path / "texts.jsonl"
    texts.write_bytes(b"\n".join(kept[18:]) + b"\n")
    metrics = {"metrics": "exact_match_unicode,rouge_unicode", "test": uneven["data.test"]}
    of_texts = run(tmp_path / "texts", predictions=str(texts), **metrics)
    (ours,), (theirs,) = records(done), records(of_texts)
    for name in ("exact_match_unicode", "rougeL_unicode", "rougeL_unicode_by_task", "empty"):
        assert theirs[name] == ours[name]

    # A row without a text and one with a blank text are told apart.
    lines = [json.loads(line) for line in kept[18:]]
    written = [one for one in lines if one["text"].strip()][2:]
    blank = {"id": lines[0]["id"], "text": " "}
    written = [blank, *(one for one in written if one["id"] != blank["id"])]
    texts.write_text("".join(json.dumps(one) + "\n" for one in written))
    (told,) = records(run(tmp_path / "blank", predictions=str(texts), **metrics))
    assert (told["empty"], told["missing"]) == (1, 18 - len(written))

    # On other rows, and cut off in the middle of its texts, it goes on.
    other = {"checkpoint": (str(tmp_path / "w" / RUN),), **flags}
    other["decoding"] = "study,max_new_tokens=5,samples=2"
    whole = run(tmp_path / "other", **other)
    file = whole.parent / Path(RUN).name / GENERATIONS
    before = whole.read_bytes(), file.read_bytes()
    whole.write_bytes(b"")
    file.write_bytes(before[1][: len(before[1]) // 2])
    run(tmp_path / "other", **other)
    assert (whole.read_bytes(), file.read_bytes()) == before


@pytest.mark.parametrize("edited", ["test", "predictions"])
def test_a_file_edited_in_place_with_its_time_put_back_is_seen(uneven, tmp_path, edited):
    test, texts = tmp_path / "test.jsonl", tmp_path / "texts.jsonl"
    test.write_bytes(Path(uneven["data.test"]).read_bytes())
    texts.write_text("{\n")
    given = {"test": str(test), "predictions": str(texts), "metrics": "exact_match_unicode"}
    # What failed with nothing measured binds nobody.
    with pytest.raises(UserError, match=r"texts\.jsonl"):
        run(tmp_path / "out", **given)
    ids = [row["id"] for row in records(test)]
    texts.write_text("".join(json.dumps({"id": one, "prediction": "red"}) + "\n" for one in ids))
    first = run(tmp_path / "out", **given).read_bytes()
    assert run(tmp_path / "out", **given).read_bytes() == first
    path = {"test": test, "predictions": texts}[edited]
    before = path.stat()
    path.write_text(path.read_text().replace('"red"', '"ted"'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    with pytest.raises(UserError, match=f"--{edited} .*has changed since .*out was begun"):
        run(tmp_path / "out", **given)


def test_a_checkpoint_that_was_trained_anew_is_seen(finished, small_config, tmp_path):
    work, out = tmp_path / "w", tmp_path / "out"
    shutil.copytree(finished, work)
    before = run(out, str(work / RUN)).read_bytes()
    shutil.rmtree(work)
    study.run(small_config(**{"training.learning_rate": 0.002}), work, command="test")
    with pytest.raises(UserError, match=r"seed0, step 10: the checkpoint changed .*another --out"):
        run(out, str(work / RUN))
    assert (out / evaluate.FILE).read_bytes() == before
    assert run(tmp_path / "new", str(work / RUN)).read_bytes() != before


@pytest.mark.parametrize("kind", ["mixture", "prepared", "tasks"])
def test_what_stands_behind_the_name_of_the_test_rows_is_seen(uneven, tmp_path, kind):
    rows, mixture = tmp_path / "rows.jsonl", tmp_path / "all.mix.json"
    rows.write_bytes(Path(uneven["data.test"]).read_bytes())
    mixture.write_text(json.dumps({"sources": [{"name": "rows", "path": str(rows)}]}))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks.txt").write_text("task1_say\n")
    task = {"Definition": ["Say."], "Positive Examples": [], "Negative Examples": []}

    def write():
        if kind == "prepared":
            shutil.rmtree(tmp_path / "kept", ignore_errors=True)
            prepare.run(PrepareOptions(str(rows), tmp_path / "kept"))
        said = [one["messages"] for one in records(rows)]
        told = [
            {"input": asked["content"], "output": [answer["content"]]} for asked, answer in said
        ]
        told = [one | {"id": f"task1-{number}"} for number, one in enumerate(told)]
        path = tmp_path / "tasks" / "task1_say.json"
        path.write_text(json.dumps(task | {"Instances": told}))

    write()
    behind = {"mixture": str(mixture), "prepared": f"{tmp_path / 'kept'}:train"}
    behind["tasks"] = str(tmp_path / "tasks.txt")
    given = {"test": behind[kind], "baseline": "copy_input", "metrics": "exact_match"}
    before = run(tmp_path / "out", **given).read_bytes()
    assert run(tmp_path / "out", **given).read_bytes() == before
    rows.write_text(rows.read_text().replace('"red"', '"ted"'))
    write()
    with pytest.raises(UserError, match="copy_input: the test instances changed since"):
        run(tmp_path / "out", **given)


def test_the_tokenizer_of_the_same_weights_is_seen(write_bytes_llama, uneven, tmp_path):
    folder = write_bytes_llama(tmp_path / "model")
    given = {"model": str(folder), "test": uneven["data.test"], "max_length": 250}
    before = run(tmp_path / "out", **given).read_bytes()
    assert run(tmp_path / "out", **given).read_bytes() == before
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"model: the tokenizer changed since .*another --output"):
        run(tmp_path / "out", **given)


def test_records_that_changed_are_refused_and_those_cut_off_are_made_again(uneven, tmp_path):
    given = {"test": uneven["data.test"], "baseline": "copy_input", "metrics": "rouge"}
    path = run(tmp_path / "out", **given)
    whole = path.read_bytes()
    for changed in (whole[:-9], whole * 2, b""):
        path.write_bytes(changed)
        assert run(tmp_path / "out", **given).read_bytes() == whole
    digit = whole.index(b"0.") + 2
    path.write_bytes(whole[:digit] + bytes([whole[digit] ^ 1]) + whole[digit + 1 :])
    with pytest.raises(UserError, match=r"evaluation\.jsonl: is damaged"):
        run(tmp_path / "out", **given)


def test_a_pipe_is_read_and_not_taken_for_what_it_held_before(uneven, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def measured(text):
        line = json.dumps({"id": "test 0", "text": text}) + "\n"
        writer = threading.Thread(target=pipe.write_text, args=(line,), daemon=True)
        writer.start()
        return run(tmp_path / "out", test=uneven["data.test"], predictions=str(pipe))

    assert measured("red").exists()
    with pytest.raises(UserError, match=r"--predictions .*is a pipe"):
        measured("blue")


def test_what_no_evaluation_wrote_is_no_output(finished, uneven, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    before = sorted(finished.rglob("*"))
    given = {"test": uneven["data.test"], "baseline": "copy_input"}
    for output in (tmp_path / "mine", finished, finished / "runs", finished / RUN):
        for flags in ({"checkpoint": (str(finished / RUN),)}, {"checkpoint": None} | given):
            with pytest.raises(UserError, match="which no evaluation wrote"):
                run(output, **flags)
    assert sorted(finished.rglob("*")) == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_template_gets_its_arguments(write_llama, uneven, tmp_path):
    folder = write_llama(tmp_path / "model")
    text = "{% for m in messages %}{{ m.role + ': ' + m.content }}{{ eos_token }}{% endfor %}"
    text += "{% if add_generation_prompt %}assistant: {% endif %}"
    written = {"plain": text, "brief": "Be brief. " + text, "asked": "{{ tone }} " + text}
    losses = {}
    for name, template in written.items():
        path = tmp_path / f"{name}.jinja"
        path.write_text(template)
        given = {"model": str(folder), "tokenizer": "bytes", "max_length": 250, "metrics": "loss"}
        given |= {"test": uneven["data.test"], "template": str(path)}
        if name == "asked":
            with pytest.raises(UserError, match=r"--template-args: .*no variable 'tune'.*tone"):
                run(tmp_path / "wrong", **given, template_args="tune=low")
            given["template_args"] = "tone=Be brief."
        losses[name] = records(run(tmp_path / name, **given))[0]["losses"]
    assert losses["asked"] == losses["brief"] != losses["plain"]


def test_each_answer_is_measured_as_the_last_of_its_own_row(write_llama, tmp_path):
    folder = write_llama(tmp_path / "model")
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"say {n}"} for n in range(4)]
    rows = {"whole": [turns], "apart": [turns[:2], turns]}
    losses = {}
    for name, answers in (("whole", "each"), ("apart", "last")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in rows[name]))
        given = {"model": str(folder), "tokenizer": "bytes", "max_length": 250, "metrics": "loss"}
        written = run(tmp_path / name, **given, test=str(path), answers=answers)
        losses[name] = records(written)[0]["losses"]
    assert losses["whole"] == losses["apart"]
    assert len(losses["whole"]) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"model": "m", "test": "t", "template_args": "a=1"},
            "--template-args='a=1' .*--template='st",
        ),
        ({}, "nothing to evaluate: give one of --checkpoint, --model"),
        ({"model": "m", "predictions": "p", "test": "t"}, "--model and --predictions: give one"),
        ({"model": "m"}, "--model: measured on what"),
        ({"predictions": "p", "test": "t", "metrics": "loss"}, "--metrics loss: choose of rouge"),
        ({"model": "m", "test": "t", "metrics": "ruge"}, "did you mean rouge"),
        ({"model": "m", "test": "rewrites"}, "--test rewrites: .* as rewrites:rules=1024"),
        ({"model": "m", "test": "t", "decoding": "gredy"}, "did you mean greedy"),
        ({"model": "m", "test": "t", "batch_size": 0}, "--batch-size=0 must be at least 1"),
        ({"model": "m", "test": "t", "decoding": "samples=0"}, "samples=0; give a whole number"),
        ({"checkpoint": ("c",), "max_length": 9}, "--max-length: the test rows of a study"),
        ({"checkpoint": ("c",), "dtype": "float32"}, "--dtype is of --model"),
        ({"predictions": "p", "test": "t", "adapters": "a"}, "--adapters are of --model"),
        ({"predictions": "p", "test": "t", "stops": (".",)}, "--stops: --predictions has its"),
        ({"baseline": "copy", "test": "t"}, "--baseline copy: choose one of copy_input"),
    ],
)
def test_flags_that_do_not_go_together_are_told(flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_rows_longer_than_the_models_positions_are_refused(finished, uneven, tmp_path):
    with pytest.raises(UserError, match=r"--max-length=4000 passes the \d+ positions"):
        run(
            tmp_path / "out",
            f"{finished}/{RUN}",
            test=uneven["data.test"],
            max_length=4000,
        )


@pytest.fixture
def rewarded(write_reward, tmp_path):
    """Gives the records that a reward model of so many positions makes of (id, prompt, text)."""

    def make(positions, *given):
        model = write_reward(tmp_path / str(positions))
        config = json.loads((model / "config.json").read_text())
        config["max_position_embeddings"] = positions
        (model / "config.json").write_text(json.dumps(config))
        test, texts = tmp_path / "test.jsonl", tmp_path / "texts.jsonl"
        rows = [{"id": i, "task": "t", "prompt": p, "completion": "word"} for i, p, _ in given]
        test.write_text("".join(json.dumps(row) + "\n" for row in rows))
        texts.write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, _, t in given))
        out = tmp_path / f"out{positions}-{len(given)}"
        files = {"test": str(test), "predictions": str(texts), "reward_model": str(model)}
        (told,) = records(run(out, metrics="reward", **files))
        return told, {one["id"]: one["reward"] for one in records(out / GENERATIONS)}

    return make


def test_prompts_that_are_cut_for_a_reward_model_are_told(rewarded, capfd):
    short, long = ("short", "Say a word.", "word"), ("long", "Why? " * 200, "word")
    told, _ = rewarded(256, short, long)
    assert told["reward_cut"] == 1
    assert "rewards: 1 of 2 prompts were cut to fit" in capfd.readouterr().err
    told, _ = rewarded(256, short)
    assert "reward_cut" not in told
    assert "were cut" not in capfd.readouterr().err


def test_a_text_is_rewarded_as_far_as_the_model_has_positions(rewarded):
    texts = [(f"row{n}", "Tell a story.", "word") for n in range(5)]
    long = ("long", "Tell a story.", "once upon a time " * 130)
    told, every = rewarded(4096, *texts, long)
    assert "reward_cut" not in told
    for given in ([long], texts):
        alone = rewarded(4096, *given)[1]
        assert alone == pytest.approx({one: every[one] for one in alone}, abs=1e-5)
    with pytest.raises(UserError, match=r"row long: the text 'once upon .* than the 2,048 tokens"):
        rewarded(2048, *texts, long)
