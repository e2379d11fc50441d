"""What was written and is gone, changed or damaged is named; nothing starts over in silence."""

import json
import os
import shutil
from pathlib import Path

import pytest

from zsg_jax.arrangement.spaces import open_encoder
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import loop
from zsg_jax.training.checkpoint import MANIFEST
from zsg_jax.workflows import evaluate, export, study
from zsg_jax.workflows.evaluate_options import EvaluateOptions
from zsg_jax.workflows.export_options import ExportOptions

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


def other_letters(content):
    return content.replace(b'"b"', b'"?"').replace(b'"c"', b'"b"').replace(b'"?"', b'"c"')


def test_lost_checkpoints_are_no_silent_restart(workdir, small_config):
    unfinish(workdir)
    metrics = (workdir / RUN / "metrics.jsonl").read_bytes()
    for path in (workdir / RUN / "checkpoints").rglob("manifest.json"):
        path.unlink()
    refused(small_config(), workdir, "holds no whole checkpoint, although .* taken step 10")
    shutil.rmtree(workdir / RUN / "checkpoints")
    refused(small_config(), workdir, "delete .* to train this run from the start")
    assert (workdir / RUN / "metrics.jsonl").read_bytes() == metrics


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
    refused(small_config(), workdir, "does not hold the records of steps 0 to 10")


def test_a_finished_run_whose_metrics_changed_is_not_reported(workdir, small_config):
    path = workdir / RUN / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    refused(small_config(), workdir, "is not what the run finished with")


def test_a_folder_copied_under_another_name_is_not_taken_for_that(workdir, small_config):
    grown = small_config(seeds=(0, 1))
    shutil.copytree(workdir / RUN, other := workdir / "runs" / "tmta-nft-seed1")
    refused(grown, workdir, "tmta-nft-seed1: holds what tmta-nft-seed0 has written")
    (other / "finished.json").unlink()
    refused(grown, workdir, "tmta-nft-seed1: holds what tmta-nft-seed0 has written")
    shutil.rmtree(other)
    made = workdir / "arrangements"
    shutil.copytree(made / "tmta-nft", made / "tmta-min")
    more = {"arrangement.methods": ("tmta-nft", "tmta-min")}
    refused(small_config(**more), workdir, "tmta-min: holds the order 'tmta-nft'")


@pytest.mark.ci
@pytest.mark.slow
def test_a_run_of_a_study_that_trained_otherwise_is_not_taken_for_one_of_this(
    workdir, small_config, tmp_path
):
    def trained(seed, **changes):
        elsewhere, run = tmp_path / str(seed), f"runs/tmta-nft-seed{seed}"
        again(small_config(seeds=(seed,), **changes), elsewhere)
        shutil.copytree(elsewhere / run, workdir / run)

    # Of the same study, seeds may be trained on several machines and put together.
    trained(1)
    again(small_config(seeds=(0, 1)), workdir)
    trained(2, **{"training.learning_rate": 0.02})
    refused(small_config(seeds=(0, 1, 2)), workdir, "seed2: was trained with .*_rate=0.02")


@pytest.mark.ci
@pytest.mark.slow
def test_a_run_of_other_rows_is_not_taken_for_one_of_this(uneven, small_config, tmp_path):
    rows = Path(uneven["data.train"]).read_text().splitlines(keepends=True)[:40]
    sides = {**uneven, "data.train": str(tmp_path / "train.jsonl")}
    given = {**sides, "tokenizer": "bytes", "training.epochs": ("ordered", "shuffled")}
    here = tmp_path / "w/runs/tmta-nft-seed1"

    def trained(seeds, workdir, lines=rows):
        (tmp_path / "train.jsonl").write_text("".join(lines))
        again(small_config(seeds=seeds, **given), workdir)

    trained((0,), tmp_path / "w")
    # The same settings, but a file of other rows.
    trained((1,), tmp_path / "other", [rows[0].replace("Say", "Tell"), *rows[:0:-1]])
    shutil.copytree(tmp_path / "other/runs/tmta-nft-seed1", here)
    with pytest.raises(UserError, match="seed1: was trained on other inputs, by its train_digest"):
        trained((0, 1), tmp_path / "w")
    # Of a run of an earlier version the order tells it.
    begun = (here / "belongs.json").read_bytes()
    (here / "belongs.json").unlink()
    ended = json.loads((here / "finished.json").read_text())
    (here / "finished.json").write_text(json.dumps(ended | {"inputs": {}}))
    (tmp_path / "w/manifest.json").unlink()
    with pytest.raises(UserError, match="seed1: was trained in another order than"):
        trained((0, 1), tmp_path / "w")
    # Of one that is half trained, what was told as it began, and with its checkpoint.
    (here / "finished.json").unlink()
    for content in (begun, None):
        if content is not None:
            (here / "belongs.json").write_bytes(content)
        else:
            (here / "belongs.json").unlink(missing_ok=True)
        (tmp_path / "w/manifest.json").unlink()
        with pytest.raises(UserError, match="seed1: was trained on other inputs, by its train"):
            trained((0, 1), tmp_path / "w")


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


def flip(folder):
    """Another last byte in the largest file of a checkpoint's arrays."""
    data = max((folder / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip, "00000010: is damaged: .*; restore it, or name .*00000008$"),
        (lambda folder: (folder / MANIFEST).unlink(), "of step 10; kept are 8, .*00000008$"),
        (shutil.rmtree, "of step 10; kept are 8, to be named as .*00000008$"),
    ],
    ids=["damaged", "unfinished", "gone"],
)
def test_no_earlier_checkpoint_stands_in_for_the_last(
    workdir, small_config, tmp_path, harm, message
):
    run, new = workdir / RUN, tmp_path / "new"
    harm(run / "checkpoints" / "00000010")
    for read in (
        lambda: again(small_config(**{"model.init_from": str(run)}), new),
        lambda: open_encoder(f"states:{run}", tmp_path),
        lambda: open_encoder(f"gradients:{run}", tmp_path),
        lambda: evaluate.run(EvaluateOptions(new, checkpoint=(str(run),))),
        lambda: export.run(ExportOptions(workdir, run.name, new)),
    ):
        with pytest.raises(UserError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
        shutil.rmtree(new, ignore_errors=True)
    export.run(ExportOptions(workdir, run.name, new, step=8))
    assert open_encoder(f"states:{run}@8", tmp_path).name.startswith(f"states:{run.name}@8,")


def test_a_run_goes_on_from_an_earlier_checkpoint_where_the_last_is_damaged(
    workdir, small_config, read_metrics, capsys
):
    expected = read_metrics(workdir / RUN)
    flip(workdir / RUN / "checkpoints" / "00000010")
    unfinish(workdir)
    again(small_config(), workdir)
    assert read_metrics(workdir / RUN) == expected
    assert "going on after step 8" in capsys.readouterr().err


def test_files_that_somebody_lays_beside_records_are_left_alone(
    workdir, small_config, read_metrics
):
    expected, test = read_metrics(workdir / RUN), '{"step": 10, "kind": "test"}\n'
    unfinish(workdir)
    notes, picked = workdir / RUN / "notes.jsonl", workdir / RUN / "picked.jsonl"
    notes.write_text("no record\n")
    picked.write_text(test)
    shutil.rmtree(workdir / RUN / "checkpoints" / "00000010")
    more = {
        "evaluation.metrics": ("loss", "exact_match"),
        "evaluation.texts.decoding": "greedy,max_new_tokens=2",
    }
    again(small_config(**more), workdir)
    assert (notes.read_text(), picked.read_text()) == ("no record\n", test)
    notes.unlink()
    again(small_config(**more), workdir)
    assert [one["loss"] for one in read_metrics(workdir / RUN)] == [one["loss"] for one in expected]


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


def test_a_damaged_tokenizer_is_trained_again(small_config, tmp_path, capsys):
    config = small_config(**{"tokenizer": "train", "tokenizer_size": 280, "training.steps": 1})
    again(config, tmp_path / "w")
    unfinish(tmp_path / "w")
    path = tmp_path / "w" / "tokenizer" / "tokenizer.json"
    whole = path.read_bytes()
    path.write_bytes(other_letters(whole))
    assert path.read_bytes() != whole
    again(config, tmp_path / "w")
    assert path.read_bytes() == whole
    assert f"{path} does not have the checksum" in capsys.readouterr().err


def test_other_weights_under_the_same_name_are_refused(small_config, write_llama, tmp_path):
    path = write_llama(tmp_path / "llama")
    config = small_config(**{"model.init_from": str(path), "training.steps": 1})
    again(config, tmp_path / "w")
    unfinish(tmp_path / "w")
    write_llama(path, 1)
    refused(config, tmp_path / "w", "the weights it begins with changed since")


def test_weights_that_change_between_runs_are_refused_by_the_next(
    small_config, write_llama, tmp_path, monkeypatch
):
    path, train = write_llama(tmp_path / "llama"), loop.train
    methods = {"arrangement.methods": ("tmta-nft", "tmta-fft")}
    config = small_config(**{"model.init_from": str(path), "training.steps": 1}, **methods)

    def then_changed(*given, **named):
        train(*given, **named)
        write_llama(path, 1)

    monkeypatch.setattr(loop, "train", then_changed)
    refused(config, tmp_path / "w", "holds other weights than when the study began")
    monkeypatch.setattr(loop, "train", train)
    write_llama(path)
    again(config, tmp_path / "w")


def test_a_run_of_other_weights_is_not_taken_for_one_of_this_study(
    small_config, write_llama, tmp_path
):
    path, run = write_llama(tmp_path / "llama"), "runs/tmta-fft-seed0"

    def config(*methods):
        given = {"model.init_from": str(path), "training.steps": 1}
        return small_config(**given, **{"arrangement.methods": methods})

    again(config("tmta-nft"), tmp_path / "w")
    write_llama(path, 1)
    again(config("tmta-fft"), tmp_path / "other")
    shutil.copytree(tmp_path / "other" / run, tmp_path / "w" / run)
    write_llama(path)
    both = config("tmta-nft", "tmta-fft")
    refused(both, tmp_path / "w", "was trained on other inputs, by its weights_digest")


def edit(path, content):
    """Writes a file anew in place, with its size and its time as they were."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


TEMPLATE = (
    "{% for m in messages %}{{ m.role + ': ' + m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.ci
@pytest.mark.slow
def test_any_input_edited_in_place_with_its_time_put_back_is_refused(
    small_config, write_llama, write_reward, uneven, tmp_path
):
    model, reward = write_llama(tmp_path / "model"), write_reward(tmp_path / "reward")
    words, tokens = write_reward(tmp_path / "words"), write_reward(tmp_path / "tokens")
    train, test, template = (tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jinja"))
    shutil.copy(uneven["data.train"], train)
    shutil.copy(uneven["data.test"], test)
    template.write_text(TEMPLATE)
    ends = model / "generation_config.json"
    ends.write_text('{"eos_token_id": [257, 10]}')
    config = small_config(
        **{
            "data.train": str(train),
            "data.test": str(test),
            "data.template": str(template),
            "model.init_from": str(model),
            "tokenizer": str(tokens),
            "training.steps": 1,
            "evaluation.metrics": ("loss", "rouge", "reward"),
            "evaluation.texts.decoding": "greedy,max_new_tokens=1",
            "evaluation.texts.reward_model": str(reward),
            "evaluation.texts.rouge_tokenizer": str(words),
        }
    )
    workdir = tmp_path / "w"
    again(config, workdir)
    unfinish(workdir)
    for path, told in {
        train: "the training instances",
        test: "the test instances",
        template: "the chat template",
        tokens / "tokenizer.json": "the tokenizer",
        words / "tokenizer.json": "the tokenizer whose words",
        reward / "tokenizer.json": "the tokenizer or the template",
        reward / "model.safetensors": "the reward model",
        model / "model.safetensors": "the weights",
        ends: "what ends a text",
    }.items():
        whole = path.read_bytes()
        other = {
            ".jsonl": whole.replace(b"green", b"groan"),
            ".jinja": whole.replace(b": ", b"- "),
            ".json": other_letters(whole).replace(b"10]", b"11]"),
            ".safetensors": whole[:-1] + bytes([whole[-1] ^ 1]),
        }[path.suffix]
        assert other != whole
        edit(path, other)
        refused(config, workdir, f"{told}.* changed since it was made")
        path.write_bytes(whole)
    again(config, workdir)


@pytest.mark.ci
@pytest.mark.slow
def test_categories_that_have_changed_since_scores_were_told_by_them_are_refused(
    small_config, tmp_path
):
    rows = [
        {"prompt": f"say {i}", "completion": "a", "choices": ["a", "b"], "category": "x"}
        for i in range(16)
    ]
    file = tmp_path / "rows.jsonl"

    def changed(**fields):
        file.write_text("".join(json.dumps(row | fields) + "\n" for row in rows))

    sides = {f"data.{side}": str(file) for side in ("train", "test")}
    scored = {"evaluation.metrics": ("loss", "choices"), "training.steps": 1}
    config = small_config(**sides, **scored)
    changed()
    again(config, tmp_path / "w")
    unfinish(tmp_path / "w")
    changed(category="y")
    refused(config, tmp_path / "w", "the categories of the test instances, .* changed since")
    again(small_config(**sides, **{"training.steps": 1}), tmp_path / "loss")
    unfinish(tmp_path / "loss")
    changed()
    again(small_config(**sides, **{"training.steps": 1}), tmp_path / "loss")


def test_weights_with_a_nan_or_without_an_end_are_refused(small_config, write_llama, tmp_path):
    path = write_llama(tmp_path / "llama", poisoned=True)
    config = small_config(**{"model.init_from": str(path)})
    told = r"test loss is nan at step 0, by \d+ of 12 test rows, such as"
    refused(config, tmp_path / "poisoned", told)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(config, tmp_path / "cut", "truncated or damaged")
    assert not (tmp_path / "cut" / "embeddings").exists()


def test_arrangements_of_other_instances_are_refused(workdir, small_config):
    unfinish(workdir)
    path = workdir / "arrangements" / "tmta-nft" / "arrangement.json"
    content = json.loads(path.read_text())
    content["provenance"]["train_digest"] = "other"
    path.write_text(json.dumps(content))
    (workdir / "manifest.json").unlink()  # or the change itself is what is told
    refused(small_config(), workdir, "was made from other instances")
