import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from jinja2 import UndefinedError

from zsg_jax.report import page
from zsg_jax.report.page import write_report
from zsg_jax.runtime import files as durable
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.trajectory import Trajectory

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Reads a page strictly: tags must close in order; collects what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.text, self.spoken = [], [], [], {}, []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data
        if "style" not in self.open:
            self.spoken.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.strip()

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def said(self):
        return " ".join(" ".join(self.spoken).split())


def make_runs(names=("tmta-nft", "tmta-rt"), seeds=(0, 1), tasks=("t1", "t2"), evaluations=4):
    runs = {}
    for place, name in enumerate(names):
        for seed in seeds:
            rows = []
            for e in range(evaluations):
                loss = 3.0 / (1 + e) + 0.25 * place + 0.5 * seed
                by_task = {task: loss + 0.125 * i for i, task in enumerate(tasks)}
                rows.append(
                    {
                        "step": 10 * e,
                        "kind": "test",
                        "loss": loss,
                        "loss_by_task": by_task,
                        "instances": 8,
                        "dropped": 2,
                    }
                )
            rows += [{"step": s, "kind": "train", "loss": 2.0} for s in range(1, 11)]
            runs.setdefault(name, {})[seed] = rows
    return runs


def trajectories(names=("tmta-nft", "tmta-rt"), tasks=("t1", "t2")):
    step = np.arange(10, 40, 10)
    values = {"nearest": -0.5 + 1 / step, "average": -step / 400}
    by_task = dict.fromkeys(tasks, values)
    return {name: Trajectory(step, "cosine", values, by_task) for name in names}


COMMAND = "python -m zsg_jax.main --config.x='<a & b>'"
FACTS = {"Train rows": "28,751", "Encoder": "hashed <n-grams>"}


def test_everything_is_on_the_page(tmp_path):
    index = write_report(
        tmp_path / "report",
        make_runs(),
        trajectories(),
        FACTS,
        ["12 rows were skipped."],
        title="A study",
        command=COMMAND,
        turns={"tmta-nft": 13, "tmta-rt": 7},
    )
    assert index == tmp_path / "report" / "index.html"
    read = Page(index.read_text())
    assert read.text["title"] == "A study"
    assert read.text["code"] == COMMAND

    results = read.tables[0]
    assert results[1][0] == "tmta-nft"
    # 3/(1+e) at steps 0, 10, 20, 30: area (1.5 + 1.5 + 1 + 0.375) / 3, a quarter for the seeds.
    assert results[1][1] == f"{(1.5 + 1.5 + 1 + 0.375) / 3 + 0.25:.4f} ± {0.5 / 2**0.5:.4f}"
    assert results[1][2] == f"{0.75 + 0.25:.4f} ± {0.5 / 2**0.5:.4f}"
    assert results[1][3].startswith("30")
    assert [row[4] for row in results] == ["Turns", "13", "7"]
    assert read.text["strong"].count("±") == 2  # the lowest area and final loss, both of tmta-nft

    correlation = read.tables[1]
    assert [row[0] for row in correlation[1:]] == ["nearest row seen", "average over pairs"]
    assert correlation[0][1:] == ["tmta-nft", "tmta-rt", "all together"]
    assert correlation[1][1] == "1.00(1.00)"  # both fall as 1/step, or nearly so
    tasks = read.tables[3]
    assert [row[0] for row in tasks[1:]] == ["t1", "t2"]
    assert tasks[2][1].startswith("1.1250")
    assert ["Train rows", "28,751"] in read.tables[4]
    assert ["Encoder", "hashed <n-grams>"] in read.tables[4]
    said = read.said()
    assert "12 rows were skipped." in said
    assert page.PROTOCOL in said
    assert said.count("after the cut: 2; scored: 8.") == 1


def test_figures_are_files_beside_the_page_with_a_description(tmp_path):
    index = write_report(tmp_path, make_runs(), trajectories(), FACTS)
    read = Page(index.read_text())
    images = read.all("img")
    sources = [image["src"] for image in images]
    assert sources == [
        "loss.svg",
        "similarity.svg",
        "loss_by_task.svg",
        "similarity_by_task.svg",
        "train_loss.svg",
    ]
    for image in images:
        ET.parse(tmp_path / image["src"])
        assert len(image["alt"]) > 40
    assert "tmta-nft ends at 1.0000" in images[0]["alt"]
    assert len(read.all("figcaption")) == len(images)
    assert {path.name for path in tmp_path.iterdir()} == {*sources, "index.html", "summary.json"}


def test_the_page_asks_for_nothing_from_outside_and_runs_no_script(tmp_path):
    index = write_report(tmp_path, make_runs(), trajectories(), FACTS)
    read = Page(index.read_text())
    assert "://" not in index.read_text()
    assert not read.all("script")
    assert not read.all("link")
    assert read.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in read.all("meta"))
    assert all(cell.get("scope") in ("row", "col") for cell in read.all("th"))
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    pointed = {attrs["aria-labelledby"] for _, attrs in read.tags if "aria-labelledby" in attrs}
    assert pointed <= set(ids)


def test_names_are_text_never_markup(tmp_path):
    evil = "<script>alert('x')</script>"
    runs = make_runs(names=(evil, "b"), tasks=(evil, "t2"))
    index = write_report(
        tmp_path,
        runs,
        trajectories((evil,), (evil, "t2")),
        {evil: evil},
        [evil],
        title=evil,
        turns={evil: 1},
    )
    read = Page(index.read_text())
    assert not read.all("script")
    assert read.text["title"] == evil
    assert read.tables[0][1][0] == evil
    assert read.tables[1][0][1] == evil
    assert read.tables[3][1][0] == evil
    assert [evil, evil] in read.tables[4]
    assert any(
        "ends at" in image["alt"] and "<script>" in image["alt"] for image in read.all("img")
    )


def test_a_rebuild_gives_the_same_bytes_and_drops_stale_figures(tmp_path):
    def build(runs, paths):
        write_report(tmp_path, runs, paths, FACTS)
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    first = build(make_runs(), trajectories())
    assert build(make_runs(), trajectories()) == first
    alone = build(make_runs(tasks=("t1",)), {})
    assert set(first) - set(alone) == {
        "loss_by_task.svg",
        "similarity.svg",
        "similarity_by_task.svg",
    }


def test_one_arrangement_one_seed_two_evaluations_no_facts(tmp_path):
    runs = make_runs(names=("only",), seeds=(0,), tasks=("t1",), evaluations=2)
    read = Page(write_report(tmp_path, runs, {}, {}).read_text())
    assert read.text["title"] == page.TITLE
    assert read.tables[0][1] == ["only", "2.2500", "1.5000", "10", "1", "10"]
    assert "strong" not in read.text
    assert not read.all("pre")
    assert "loss_by_task.svg" not in [image["src"] for image in read.all("img")]


def test_sixty_tasks_all_stand_in_the_table(tmp_path):
    runs = make_runs(tasks=[f"task{i}" for i in range(60)])
    read = Page(write_report(tmp_path, runs, {}, {}).read_text())
    assert len(read.tables[2]) == 61
    assert "24 of 60 tasks are drawn" in read.said()
    assert "36 are left out" in read.said()
    counts = [int(cell) for row in read.tables[1][1:] for cell in row[1:]]
    assert sum(counts) == 2 * 60


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    write_report(tmp_path, make_runs(), {}, FACTS)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path, make_runs(seeds=(0,)), {}, FACTS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


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
