"""A study whose model is pretrained first, and the plain text it is pretrained on."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.config import flatten
from zsg_jax.data.plain_text import encode_plain, general_strings
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.workflows import study

METHODS = ("tmta-nft", "tmta-fft")
SETTINGS = {"model.pretraining.steps": 10, "model.pretraining.batch_size": 8, "seeds": (0, 1)}


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "test"]


@pytest.fixture(scope="module")
def workdir(make_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "w"
    study.run(make_config(**SETTINGS, **{"arrangement.methods": METHODS}), folder, command="x")
    return folder


@pytest.mark.ci
@pytest.mark.slow
def test_all_orders_of_a_seed_begin_with_its_pretrained_weights(
    workdir, make_config, tmp_path, capsys
):
    first = {
        seed: {losses(workdir / "runs" / f"{name}-seed{seed}")[0] for name in METHODS}
        for seed in (0, 1)
    }
    assert [len(one) for one in first.values()] == [1, 1]
    assert first[0] != first[1]
    for seed in (0, 1):
        held_out = losses(workdir / "pretraining" / f"pretraining-seed{seed}")
        assert held_out[-1] < held_out[0]
    study.run(make_config(), tmp_path / "random", command="x")
    assert {losses(tmp_path / "random" / "runs" / "tmta-nft-seed0")[0]} != first[0]
    assert "pretrained here for 10 steps" in (workdir / "report" / "index.html").read_text()


@pytest.mark.ci
@pytest.mark.slow
def test_it_goes_on_bit_for_bit_where_it_was_killed(
    commands, make_config, read_metrics, workdir, tmp_path
):
    file, killed = tmp_path / "config.json", tmp_path / "killed"
    # One run of those that were not stopped.
    config = make_config(**SETTINGS | {"seeds": (0,)})
    file.write_text(json.dumps(flatten(config)))
    # A checkpoint at 4, 8 and 10.
    places = [("row", 6), ("saved", 2)]
    flags = [(killed, file, *place) for place in (*places, ("none", 0))]
    *deaths, last = commands("killed", *flags, cwd=Path(__file__).parents[1] / "faults")
    assert [code for code, _, _ in deaths] == [-signal.SIGKILL] * 2
    assert last[0] == 0, last[2]
    runs = [run.relative_to(killed) for run in killed.glob("*/*-seed*")]
    assert len(runs) == 2
    for run in runs:
        assert read_metrics(killed / run) == read_metrics(workdir / run)


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_last_checkpoint_that_is_lost_is_made_again_and_no_earlier_one_begins_a_run(
    small_config, read_metrics, tmp_path, harm
):
    settings = {"model.pretraining.steps": 6, "model.pretraining.batch_size": 8}
    settings |= {"training.steps": 2}
    whole, lost = tmp_path / "whole", tmp_path / "lost"
    study.run(small_config(**settings), whole, command="x")
    shutil.copytree(whole, lost)
    last = lost / "pretraining" / "pretraining-seed0" / "checkpoints" / "00000006"
    assert [one.name for one in sorted(last.parent.iterdir())] == ["00000004", last.name]
    if harm == "gone":
        shutil.rmtree(last)
    else:
        (last / "position.json").write_text("{}")
    for folder in (whole, lost):
        study.run(small_config(**settings, **{"arrangement.methods": METHODS}), folder, command="x")
    runs = [run.relative_to(whole) for run in whole.glob("*/*-seed0")]
    assert len(runs) == 3
    for run in runs:
        assert read_metrics(lost / run) == read_metrics(whole / run)


@pytest.mark.ci
@pytest.mark.slow
def test_weights_that_are_there_are_not_pretrained(workdir, make_config, tmp_path):
    before = workdir / "runs" / "tmta-nft-seed0"
    given = {"model.init_from": str(before), "model.pretraining.steps": 10, "training.steps": 1}
    study.run(make_config(**given), tmp_path / "w", command="x")
    assert not (tmp_path / "w" / "pretraining").exists()
    begun = losses(tmp_path / "w" / "runs" / "tmta-nft-seed0")[0]
    assert begun == pytest.approx(losses(before)[-1], abs=1e-6)


@given(count=st.integers(1, 20), more=st.integers(0, 5), seed=st.integers(0, 100))
def test_general_strings_hang_on_seed_and_number_alone(count, more, seed):
    made = general_strings(count, seed)
    assert general_strings(count + more, seed)[:count] == made
    assert len(set(made)) == count
    assert general_strings(1, seed + 1) != made[:1]


@given(texts=st.lists(st.text(max_size=12), min_size=1), length=st.integers(2, 20))
def test_plain_text_is_learned_whole_but_for_its_first_token(texts, length):
    tokenizer = ByteTokenizer()
    examples = encode_plain(texts, tokenizer, length)
    for number, text in enumerate(texts):
        whole = [tokenizer.bos_id, *text.encode(), tokenizer.eos_id]
        tokens, mask = examples[number]
        np.testing.assert_array_equal(tokens, whole[:length])
        np.testing.assert_array_equal(mask, [False] + [True] * (len(tokens) - 1))
