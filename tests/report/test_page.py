"""The report's page: its numbers, what it draws, and that names are text in it."""

import json
import os
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from jinja2 import UndefinedError

from zsg_jax.arrangement.methods import NAMES
from zsg_jax.evaluation import scores
from zsg_jax.evaluation.choices import RULES
from zsg_jax.report import page
from zsg_jax.report.metrics import metric_of
from zsg_jax.report.page import write_report
from zsg_jax.report.words import plain_name
from zsg_jax.runtime.errors import UserError
from zsg_jax.statistics.paired import Difference, paired_differences

COMMAND = "python -m zsg_jax.main --config.x='<a & b>'"
FACTS = {"Train rows": "28,751", "Encoder": "hashed <n-grams>"}


@pytest.fixture
def trajectories(make_trajectory):
    values = {"nearest": [1 / step for step in (10, 20, 30)], "average": [-1, -2, -3]}
    return lambda *names, tasks=("t1", "t2"): {
        name: make_trajectory(values, tasks) for name in names
    }


def test_everything_is_on_the_page(make_runs, trajectories, read_page, tmp_path):
    index = write_report(
        tmp_path / "report",
        make_runs(),
        trajectories("nft", "fft"),
        FACTS,
        ["12 rows were skipped."],
        title="A study",
        command=COMMAND,
        turns={"nft": 13, "fft": 7},
    )
    assert index == tmp_path / "report" / "index.html"
    read = read_page(index)
    read.check()
    assert read.text["title"] == "A study"
    assert read.text["code"] == COMMAND
    results, correlation, _, tasks, facts = read.tables
    assert results[1][0] == "nft"
    # 3/(1+e) at steps 0, 10, 20, 30: area (1.5 + 1.5 + 1 + 0.375) / 3, a quarter for the seeds.
    assert results[1][1] == f"{(1.5 + 1.5 + 1 + 0.375) / 3 + 0.25:.4f} ± {0.5 / 2**0.5:.4f}"
    assert results[1][2] == f"{0.75 + 0.25:.4f} ± {0.5 / 2**0.5:.4f}"
    assert results[1][3].startswith("30")
    assert [row[4] for row in results] == ["Turns", "13", "7"]
    assert [row[0] for row in correlation[1:]] == ["nearest row seen", "average over pairs"]
    assert correlation[0][1:] == ["nft", "fft", "all together"]
    assert correlation[1][1] == "1.00(1.00)"  # both fall as 1/step, or nearly so
    assert [row[0] for row in tasks[1:]] == ["t1", "t2"]
    assert tasks[2][1].startswith("1.1250")
    assert facts[:2] == [list(one) for one in FACTS.items()]
    said = read.said()
    assert "12 rows were skipped." in said
    assert page.PROTOCOL in said
    assert said.count("after the cut: 2; scored: 8.") == 1
    files = ["loss", "similarity", "loss_by_task", "similarity_by_task", "train_loss"]
    assert {path.name for path in index.parent.iterdir()} == {
        *(f"{name}.svg" for name in files),
        "index.html",
        "summary.json",
    }
    # The page holds them all, so that it can be sent alone.
    for name, drawn in zip(files, read.drawn(), strict=True):
        kept = ET.parse(index.parent / f"{name}.svg").iter("{http://www.w3.org/2000/svg}text")
        assert all("".join(one.itertext()) in drawn for one in kept)


def test_the_best_is_marked_where_it_is_told_apart_from_every_other(make_runs, read_page, tmp_path):
    noise = np.random.default_rng(0).normal(size=(3, 20))

    def told(*offsets, seeds=3):
        """Losses of 20 instances at the last step, an offset an arrangement."""
        runs = make_runs("abc"[: len(offsets)], seeds)
        for by_seed, offset in zip(runs.values(), offsets, strict=True):
            for seed, records in by_seed.items():
                [last] = [one for one in records if (one["kind"], one["step"]) == ("test", 30)]
                last["losses"] = (noise[0] + 0.01 * noise[seed, 0] + offset).tolist()
                last["loss"] = float(np.mean(last["losses"]))
        return read_page(write_report(tmp_path, runs, {}, FACTS))

    reason = "no conclusion about training noise can be drawn"
    apart = told(2.0, 1.0, 3.0)
    [row] = [row for row in apart.tables[0] if row[0] == "b"]
    assert apart.text["strong"] == row[2].replace("±", " ± ").replace("  ", " ")
    assert reason not in apart.said()
    # Level with another, though not with all; of one seed; or without values of instances.
    assert "strong" not in told(1.0, 1.0, 3.0).text
    assert "strong" not in told(2.0, 1.0, seeds=1).text
    assert reason in told(2.0, 1.0, seeds=1).said()
    assert "strong" not in read_page(write_report(tmp_path, make_runs(), {}, FACTS)).text


def test_what_is_compared_of_one_seed_is_told_beside_what_is_of_several(
    make_runs, read_page, tmp_path, undrawn
):
    def run(ends):
        drawn = np.random.default_rng(ends)
        return [
            {"step": step, "kind": "test", "loss": 1.0, "losses": drawn.normal(1, 0.2, 8).tolist()}
            for step in range(0, ends + 1, 10)
        ]

    runs = {"a": {0: run(20), 1: run(20)}, "b": {0: run(20), 1: run(20)}, "c": {0: run(10)}}
    said = read_page(write_report(tmp_path / "three", runs, {}, {})).said()
    assert "over instances and seeds, where there are several;" in said
    assert "1 or 2 of up to 2" in said
    assert "another seed may turn round what is told here" in said
    two = read_page(write_report(tmp_path / "two", {n: runs[n] for n in "ab"}, {}, {})).said()
    assert "over instances and seeds;" in two
    assert "Compared are only" not in two


def test_where_whole_tasks_are_compared_the_page_says_so(read_page, tmp_path, undrawn):
    def run(seed):
        losses = np.random.default_rng(seed).normal(1, 0.2, 24).tolist()
        return [{"step": s, "kind": "test", "loss": 1.0, "losses": losses} for s in (0, 10)]

    runs = {"a": {0: run(0)}, "b": {0: run(1)}}
    for tasks, units in ((24, "tasks of instances"), (3, "instances")):
        given = [f"t{i % tasks}" for i in range(24)]
        said = read_page(write_report(tmp_path / units, runs, {}, {}, test_tasks=given)).said()
        assert f"by Student's t over {units};" in said


def test_where_some_measures_are_over_tasks_and_others_over_instances_each_says_so(
    read_page, tmp_path, undrawn
):
    tasks = [f"t{i % 12}" for i in range(36)]  # of which three alone have choices

    def run(seed):
        drawn = np.random.default_rng(seed)
        losses = [drawn.normal(1, 0.2, 36).tolist() for _ in range(2)]
        accuracy = {i: 100.0 * bool(drawn.random() < 0.5) for i in range(36) if i % 12 < 3}
        head = {"kind": "test", "loss": 1.0, "accuracy": float(np.mean([*accuracy.values()]))}
        tests = [{"step": s, "losses": one} | head for s, one in zip((0, 10), losses, strict=True)]
        scores = [
            {"step": s, "id": f"i{i}", "task": tasks[i], "accuracy": one}
            for s in (0, 10)
            for i, one in accuracy.items()
        ]
        return tests, scores

    made = {name: run(seed) for seed, name in enumerate("ab")}
    runs, scored = ({name: {0: one[side]} for name, one in made.items()} for side in (0, 1))
    page = write_report(tmp_path, runs, {}, {}, test_tasks=tasks, scored=scored)
    said = read_page(page).said()
    assert "Student's t over what is told above each table (whole tasks, from ten on);" in said
    loss, accuracy = said.split("Intervals and p over ")[1:]
    assert loss.startswith("tasks of instances.")
    assert accuracy.startswith("instances.")
    # What is told is what was computed.
    kept = json.loads((tmp_path / "summary.json").read_text())["differences"]
    assert {name: set(one["10"][0]) for name, one in kept.items()} == {
        "loss": {*Difference._fields},
        "accuracy": {*Difference._fields, "mcnemar"},
    }
    values = {
        name: [one["accuracy"] for one in of if one["step"] == 10] for name, (_, of) in made.items()
    }
    [single] = paired_differences({name: np.array(one) for name, one in values.items()})
    assert kept["accuracy"]["10"][0]["p"] == pytest.approx(single.p)


def test_a_score_that_was_last_taken_earlier_is_told_with_its_step(
    make_runs, read_page, tmp_path, undrawn
):
    runs = make_runs()
    for one in (one for by_seed in runs.values() for run in by_seed.values() for one in run):
        if one["kind"] == "test" and one["step"] < 20:
            one |= {"rougeL": 7.0, "rougeL_by_task": {"t1": 7.0, "t2": 7.0}}
    read = read_page(write_report(tmp_path / "report", runs, {}, {}))
    column = read.table("results")[0].index("Final ROUGE-L")
    assert [row[column] for row in read.table("results")[1:]] == ["7.00 ± 0.00at step 10"] * 2
    assert read.table("rougeL_by_task")[1][1] == "7.00at step 10"
    assert "at step" not in read.table("results")[1][2]


def test_orders_have_plain_names_and_pages_of_their_own(
    make_runs, trajectories, read_page, tmp_path
):
    names = ("tmta-nft", "tmta-rt@3")
    read = read_page(
        write_report(
            tmp_path,
            make_runs(names=names),
            trajectories(*names),
            FACTS,
            explained={"tmta-rt@3": "../arrangements/tmta-rt%403/explain.html"},
        )
    )
    read.check()
    assert [row[0] for row in read.tables[0][1:]] == ["tmta-nftnearest first", "tmta-rt@3shuffled"]
    [link] = [one for one in read.all("a") if "explain" in one["href"]]
    assert link["href"] == "../arrangements/tmta-rt%403/explain.html"


def test_no_measure_is_shown_by_its_key():
    fields = [name for metric in scores.METRICS.values() for name in metric.fields]
    for name in [*fields, *RULES, "headline", "reward"]:
        metric = metric_of(name)
        assert name in ("accuracy", "reward") or name not in (metric.label, metric.title)
        assert "_" not in metric.label


def test_every_method_has_a_plain_name():
    names = [re.sub("(?<=-)[ABKN](?=-|$)", "4", name) for name in NAMES]
    assert all(map(plain_name, names)), [name for name in names if not plain_name(name)]
    assert plain_name("of no method") == ""


def test_names_are_text_never_markup(make_runs, trajectories, read_page, tmp_path):
    evil = "<script>alert('x')</script>"
    read = read_page(
        write_report(
            tmp_path,
            make_runs(names=(evil, "b"), tasks=(evil, "t2")),
            trajectories(evil, tasks=(evil, "t2")),
            {evil: evil},
            [evil],
            title=evil,
            turns={evil: 1},
        )
    )
    read.check()  # the only script is the page's own
    assert read.text["title"] == evil
    results, correlation, _, tasks, facts = read.tables
    assert [results[1][0], correlation[0][1], tasks[1][0]] == [evil] * 3
    assert [evil, evil] in facts
    assert any("<script>" in image["aria-label"] for image in read.images())
    assert any("<script>" in title for title in read.titles)


def test_a_rebuild_gives_the_same_bytes_and_drops_stale_figures(
    make_runs, trajectories, read_page, tmp_path, monkeypatch
):
    def build(runs, paths, facts=FACTS):
        index = write_report(tmp_path, runs, paths, facts)
        return index, {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    _, first = build(make_runs(), trajectories("nft", "fft"))
    assert build(make_runs(), trajectories("nft", "fft"))[1] == first
    one = make_runs(names=("only",), seeds=1, tasks=("t1",), evaluations=2, train=0)
    index, alone = build(one, {}, {})
    assert set(alone) == {"loss.svg", "index.html", "summary.json"}
    read = read_page(index)
    assert read.text["title"] == page.TITLE
    assert read.tables[0][1] == ["only", "2.2500", "1.5000", "10", "1", "10"]
    assert "strong" not in read.text
    assert not read.all("pre")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        build(make_runs(seeds=1), {})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == alone


def test_nothing_is_written_when_there_is_nothing_to_report(tmp_path):
    with pytest.raises(UserError):
        write_report(tmp_path / "report", {}, {}, FACTS)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<b>&\"'", "&lt;b&gt;&amp;&#34;&#39;"),
        ("a\x00b\x1b\x7f\x9d\ud800\ufffe", "a\ufffdb\ufffd\ufffd\ufffd\ufffd\ufffd"),
        ("a\tb\nc שלום é 😀", "a\tb\nc שלום é 😀"),
    ],
)
def test_values_are_text_and_what_html_may_not_hold_is_replaced(text, shown):
    read = page.render("facts.html", labelled_by="x", facts={text: "y"}).decode()
    assert shown in read
    with pytest.raises(UndefinedError):
        page.render("facts.html", labelled_by="x")
