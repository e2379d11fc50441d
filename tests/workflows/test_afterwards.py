"""A study asked for more measures later has those of one that was asked for them at once."""

import json
import shutil
from pathlib import Path

import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.training.metrics import NOT_KEPT, read_run
from zsg_jax.workflows import afterwards, study

RUN = Path("runs/tmta-nft-seed0")
ALL = ("loss", "rouge", "exact_match", "choices")
TEXTS = {"evaluation.texts.decoding": "study,max_new_tokens=4,samples=2"}
# Measured at steps 0, 4, 8 and 10, of which checkpoints are kept at the end of 8 and 10.
PACE = {"training.steps": 10, "evaluation.every": 2, "evaluation.scores_every": 2}


@pytest.fixture
def config(small_config, uneven, tmp_path):
    """Makes the config of a study that measures what is named, on rows that have choices."""
    rows = [json.loads(line) for line in Path(uneven["data.test"]).read_text().splitlines()]
    test = tmp_path / "test.jsonl"
    with test.open("w") as file:
        for row in rows:
            file.write(json.dumps(row | {"choices": ["red", "green", "blue"]}) + "\n")

    def make(*metrics, **more):
        own = {"evaluation.metrics": metrics, **PACE, **more}
        return small_config(**uneven | {"data.test": str(test)}, **own)

    return make


def run(config, workdir):
    return study.run(config, workdir, command="test")


def measured_in(workdir):
    """step → its test record."""
    return {one["step"]: one for one in read_run(workdir / RUN) if one["kind"] == "test"}


def scores_of(workdir):
    """What the records of examples tell, whichever file holds it: (step, id, sample) → fields."""
    told = {}
    for name in ("generations.jsonl", "scores.jsonl"):
        path = workdir / RUN / name
        for line in path.read_text().splitlines() if path.exists() else ():
            one = json.loads(line)
            key = one["step"], one["id"], one.get("sample")
            told[key] = told.get(key, {}) | one | {"measure": None}
    return told


@pytest.mark.ci
@pytest.mark.slow
def test_metrics_that_are_added_are_those_of_a_study_that_was_asked_at_once(
    config, tmp_path, monkeypatch, capsys
):
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    run(config(*ALL, **TEXTS), whole)
    run(config("loss"), grown)
    # A run that was killed behind step 8 with two checkpoints.
    stopped = shutil.copytree(grown, tmp_path / "stopped")
    (stopped / RUN / "finished.json").unlink()
    shutil.rmtree(stopped / RUN / "checkpoints" / "00000010")
    written = (grown / RUN / "metrics.jsonl").read_bytes()

    # A kill between two steps changes nothing.
    append, left = afterwards._append, [2]

    def dies(*given):
        append(*given)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(afterwards, "_append", dies)
    with pytest.raises(KeyboardInterrupt):
        run(config("loss", "exact_match", "choices", **TEXTS), grown)
    monkeypatch.setattr(afterwards, "_append", append)
    run(config("loss", "exact_match", "choices", **TEXTS), grown)
    assert measured_in(grown)[4][NOT_KEPT] == ["exact_match", "choices"]
    page = run(config(*ALL, **TEXTS), grown).read_text()
    assert "no checkpoint was kept" in page
    assert "Final ROUGE-L" in page
    assert (grown / RUN / "metrics.jsonl").read_bytes() == written
    capsys.readouterr()
    run(config(*ALL, **TEXTS), grown)
    assert capsys.readouterr().err == ""

    wanted, every = measured_in(whole), scores_of(whole)
    for workdir, steps in ((grown, (0, 8, 10)), (stopped, (0, 8, 10))):
        run(config(*ALL, **TEXTS), workdir)
        found = measured_in(workdir)
        assert list(found) == list(wanted) == [0, 2, 4, 6, 8, 10]
        for step, record in found.items():
            lost = record.pop(NOT_KEPT, [])
            assert sorted(lost) == ([] if step != 4 else ["choices", "exact_match", "rouge"])
            if step != 4:
                assert record == wanted[step]
        told = scores_of(workdir)
        assert told == {key: one for key, one in every.items() if key[0] in steps}

    with pytest.raises(UserError, match=r"evaluation\.metrics is .* name the old ones too"):
        run(config("loss", "rouge", **TEXTS), grown)
    with pytest.raises(UserError, match=r"decoding is .* there, 'greedy' here"):
        run(config(*ALL), grown)


# 128 positions: those of the longest training example.
NAMED = {"model.size": "tiny", "data.max_length": 128, "evaluation.max_length": 120}
NAMED |= {"training.steps": 1, "training.checkpoint_every": 1}


def asked(new_tokens):
    return {"evaluation.texts.decoding": f"greedy,max_new_tokens={new_tokens}"}


def test_positions_that_were_not_learned_are_not_asked_for_later(config, tmp_path):
    workdir, own = tmp_path / "w", NAMED | {"model.family": "gpt2"}
    run(config("loss", **own), workdir)
    before = {path: path.read_bytes() for path in workdir.glob("*.json")}
    told = r"learned 128 positions; .* ask for 129: give max_new_tokens=8 there, or another"
    with pytest.raises(UserError, match=told) as caught:
        run(config("loss", "generate", **own, **asked(9)), workdir)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in workdir.glob("*.json")} == before


@pytest.mark.ci
@pytest.mark.slow
@pytest.mark.parametrize(("family", "new_tokens"), [("gpt2", 8), ("llama", 40)])
def test_texts_that_are_asked_for_later_are_those_of_a_study_that_was_asked_at_once(
    config, tmp_path, family, new_tokens
):
    own = NAMED | {"model.family": family} | asked(new_tokens)
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    run(config("loss", "generate", **own), whole)
    run(config("loss", **own), grown)
    run(config("loss", "generate", **own), grown)
    assert len(scores_of(whole)) == 18 * 2
    assert scores_of(grown) == scores_of(whole)


def test_a_metric_that_cannot_be_measured_leaves_the_workdir_as_it_was(
    small_config, finished, tmp_path
):
    workdir = shutil.copytree(finished, tmp_path / "w")
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match="no test row has choices"):
        run(small_config(**{"evaluation.metrics": ("loss", "choices")}), workdir)
    assert (workdir / "config.json").read_bytes() == before
    run(small_config(), workdir)


@pytest.mark.parametrize("earlier", [False, True])
def test_nor_does_one_that_fails_as_it_is_measured(config, tmp_path, monkeypatch, earlier):
    def fails(*given, **named):
        raise UserError("it is nan")

    workdir = tmp_path / "w"
    run(config("loss"), workdir)
    if earlier:
        (workdir / RUN / "belongs.json").unlink()
    before = (workdir / "config.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(afterwards, "measure", fails)
        with pytest.raises(UserError, match="it is nan"):
            run(config("loss", "choices"), workdir)
    assert (workdir / "config.json").read_bytes() == before
    run(config("loss"), workdir)


def test_what_was_measured_before_a_kill_is_guarded_from_the_next_start_on(
    config, tmp_path, monkeypatch
):
    workdir = tmp_path / "w"
    run(config("loss"), workdir)
    with monkeypatch.context() as patch:
        patch.setattr("zsg_jax.training.finished.finish", lambda *given: 1 / 0)  # as a kill
        with pytest.raises(ZeroDivisionError):
            run(config("loss", "choices"), workdir)
    page = run(config("loss", "choices"), workdir)
    summary = page.with_name("summary.json").read_bytes()
    later = workdir / RUN / "later.jsonl"
    content = later.read_text()
    later.write_text(content.replace('"step": 4', '"step": 8', 1))
    with pytest.raises(UserError, match="is not what the run finished with"):
        run(config("loss", "choices"), workdir)
    later.write_text(content)
    assert run(config("loss", "choices"), workdir).with_name("summary.json").read_bytes() == summary
