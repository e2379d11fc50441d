import json
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.data.pool import make_pool
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.workflows import arrange as command
from zsg_jax.workflows.arrange_options import ArrangeOptions


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    monkeypatch.setattr("zsg_jax.report.svg.to_svg", lambda figure: b"<svg/>")


WRITTEN = {
    "order.npy",
    "turn.npy",
    "line.npy",
    "ids.txt",
    "arrangement.json",
    "leakage.jsonl",
    ".lock",
}


def content(folder):
    """Every file but the lock, which says who held it last."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != ".lock"]
    return {path.name: path.read_bytes() for path in files}


def test_an_arrangement_that_fails_leaves_the_one_before_it(run, tmp_path, monkeypatch):
    run(explain=True)
    before = content(tmp_path / "out")

    def fail(*_args, **_options):
        raise UserError("disk full")

    monkeypatch.setattr(command.export, "write", fail)
    with pytest.raises(UserError, match="disk full"):
        run(method="random")
    assert content(tmp_path / "out") == before
    assert not (tmp_path / "out" / "scratch").exists()


def test_another_arrangement_takes_the_place_but_keeps_the_embeddings(run, tmp_path, monkeypatch):
    run(report_split=0.5, explain=True)
    run(embeddings=str(tmp_path / "kept"), output=tmp_path / "other")
    out = tmp_path / "out"
    assert (out / "explain.html").stat().st_size > 1000
    assert not (tmp_path / "other" / "embeddings").exists()

    def fail(*_):
        raise AssertionError("embedded again")

    monkeypatch.setattr(HashingEncoder, "encode", fail)
    rows, facts = run(method="random", seed=1)
    assert facts["provenance"]["method"] == "random"
    assert len(rows) == 60
    names = {path.name for path in out.iterdir()}
    assert names == WRITTEN | {"embeddings", "arranged.jsonl"}
    told = {*facts["provenance"]["files"], "arrangement.json"}
    assert told == names - {".lock", "embeddings"}
    run(embeddings=str(tmp_path / "kept"), output=tmp_path / "third")


@pytest.mark.parametrize("format", ["jsonl", "arrow"])
def test_what_a_kill_leaves_is_no_hindrance(run, sides, tmp_path, format):
    """A kill leaves the scratch folder with whatever was written there."""
    run()
    left = tmp_path / "out" / "scratch" / "new"
    left.mkdir(parents=True)
    for name in ("arranged.stream", "arranged.jsonl.partial", "leakage.jsonl"):
        (left / name).write_text("half")
    request = ArrangeOptions(**sides, output=tmp_path / "out", format=format)
    written = command.run(request)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == WRITTEN | {"embeddings", written.name}


def test_input_is_not_read_from_where_output_goes(run, tmp_path):
    run()
    arranged = tmp_path / "out" / "arranged.jsonl"
    for side in ("train", "test"):
        with pytest.raises(UserError, match=rf"--{side} .*arranged\.jsonl: lies in the output fol"):
            run(**{side: str(arranged)})
    mixture = tmp_path / "all.mix.json"
    mixture.write_text('{"sources": [{"path": "train.jsonl"}, {"path": "out/arranged.jsonl"}]}')
    with pytest.raises(UserError, match=r"--train .*arranged\.jsonl: lies in the output folder"):
        run(train=str(mixture))
    assert arranged.exists()


def test_a_folder_of_other_things_is_left_alone(run, tmp_path):
    (tmp_path / "order").mkdir()
    (tmp_path / "order" / "order.npy").write_text("somebody's order")
    with pytest.raises(UserError, match=r"holds order\.npy, which no arrangement wrote"):
        run(output=tmp_path / "order")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds thesis\.tex, which no arrangement wrote"):
        run()
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UserError, match=r"train\.jsonl: is a file"):
        run(output=tmp_path / "train.jsonl")
    (work := tmp_path / "lab" / "scratch").mkdir(parents=True)
    (work / "notes.txt").write_text("of an experiment")
    with pytest.raises(UserError, match=r"holds scratch, which no arrangement wrote"):
        run(output=tmp_path / "lab")
    assert (work / "notes.txt").exists()


@pytest.mark.parametrize("crowded", [False, True])
def test_the_page_says_where_most_rows_are_near(run, tmp_path, crowded):
    generator = np.random.default_rng(0)
    flags = {"explain": True}
    for side, rows in (("train", 60), ("test", 7)):
        flags[f"{side}_embeddings"] = str(tmp_path / f"{side}.npy")
        np.save(flags[f"{side}_embeddings"], generator.normal(size=(rows, 8)) + 50 * crowded)
    run(**flags)
    page = (tmp_path / "out" / "explain.html").read_text()
    assert ("a higher cosine would tell copies" in page) == crowded


def test_seconds_of_embeddings_that_were_kept_are_those_of_this_start(run, capsys):
    run()
    assert "of this start" not in capsys.readouterr().err
    run()
    assert " s of this start" in capsys.readouterr().err


def test_the_rows_to_score_are_those_that_a_study_draws(run, sides, tmp_path, read_source):
    given = [json.loads(line) for line in Path(sides["test"]).read_text().splitlines()]
    given.sort(key=lambda row: row["task"], reverse=True)
    file = tmp_path / "turned.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    run(test=str(file), report_split=0.4, seed=3)
    lines = (tmp_path / "out" / "test_scored.jsonl").read_text().splitlines()
    train, test = (read_source(path)[0] for path in (sides["train"], file))
    limits = {"train_length": 999, "test_length": 999}
    pool = make_pool(train, test, ByteTokenizer(), **limits, report_fraction=0.4, seed=3)
    assert [json.loads(line)["id"] for line in lines] == pool.facts["test_ids"]
