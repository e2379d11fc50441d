import base64
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from zsg_jax.arrangement import Arrangement, tmta
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.report.explain import explain, maps, page, tables
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search.options import Search

VOID = {"meta", "img", "br", "wbr"}
EVIL = "<script>alert('x')</script> & \"more\""


class Page(HTMLParser):
    """Reads a page strictly: tags must close in order; collects what the tests look at."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.tables, self.spoken = [], [], [], []
        self.feed(path.read_bytes().decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "br":
            self.spoken.append(" ")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.spoken.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += " ".join(data.split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def said(self):
        return " ".join("".join(self.spoken).split())

    def table(self, name):
        """The table whose region has the heading of this id."""
        regions = [a for t, a in self.tags if t == "table" or (t == "div" and "role" in a)]
        labels = [a["aria-labelledby"] for a in regions if "role" in a]
        return self.tables[labels.index(name)]

    def drawn(self):
        """The text of every figure."""
        told = []
        for image in self.all("img"):
            head, content = image["src"].split(",")
            assert head == "data:image/svg+xml;base64"
            told.append(" ".join(ET.fromstring(base64.b64decode(content)).itertext()))
        return told


def instance(side, row, user="ask {row}", answer="say {row}"):
    turns = (Turn("user", user.format(row=row)), Turn("assistant", answer.format(row=row)))
    return Instance(f"{side}-{row}", "t", turns, (turns[-1].content,))


def make(n=60, tests=5, columns=6, tasks=4, test_tasks=2, seed=0, **changes):
    """Arguments of `explain` for an order of TMTA."""
    generator = np.random.default_rng(seed)
    train = generator.normal(size=(n, columns)).astype(np.float32)
    test = generator.normal(size=(tests, columns)).astype(np.float32)
    given = {
        "arrangement": tmta(train, test),
        "train_rows": train,
        "test_rows": test,
        "tasks": [f"task_{i}" for i in range(tasks)],
        "task": np.arange(n) % tasks,
        "test_tasks": [f"unseen_{i}" for i in range(test_tasks)],
        "test_task": np.arange(tests) % test_tasks,
        "read_train": lambda row: instance("train", row),
        "read_test": lambda row: instance("test", row),
        "leakage": leakage(),
        "facts": {"Method": "tmta-min"},
        "title": "An order",
    }
    return {**given, **changes}


def leakage(exact=0, pairs=0, rule="same texts"):
    touched = 3 if exact else 0
    counts = {
        **{"train_rows": 5000, "test_rows": 7},
        **{"leaking_train_rows": exact, "touched_test_rows": touched},
        **{"exact_train_rows": exact, "exact_test_rows": touched, "exact_pairs": pairs},
        **{"near_train_rows": 0, "near_test_rows": 0, "near_pairs": 0},
    }
    return {"counts": counts, "rules": {"exact": rule, "near": "cosine"}, "words": 13}


def cosines(given):
    train, test = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (given["train_rows"].astype(float), given["test_rows"].astype(float))
    )
    return train[given["arrangement"].order] @ test.T


def test_the_numbers_are_those_of_the_whole_matrix(tmp_path):
    given = make(arrangement=Arrangement(np.random.default_rng(1).permutation(60)[:47], [1] * 47))
    read = Page(explain(tmp_path / "deep" / "page.html", **given))
    table, order = cosines(given), given["arrangement"].order
    parts = {"First": slice(0, 4), "Middle": slice(21, 25), "Last": slice(43, 47)}
    for line, part in zip(
        read.table("stretches")[1:], [*parts.values(), slice(0, 47)], strict=True
    ):
        assert line[1] == f"{part.start + 1} – {part.stop}"
        assert float(line[2]) == pytest.approx(table[part].mean(), abs=6e-5)
        assert float(line[3]) == pytest.approx(table[part].max(axis=1).mean(), abs=6e-5)
        assert line[4] == "1"
    for name, rows, share, median, cosine in read.table("train-tasks")[1:]:
        of = np.flatnonzero(given["task"][order] == int(name[-1]))
        assert int(rows) == len(of)
        assert float(share) == pytest.approx(100 * len(of) / 47, abs=0.006)
        assert float(median) == pytest.approx(np.median(of) + 1, abs=0.51)
        assert float(cosine) == pytest.approx(table[of].max(axis=1).mean(), abs=6e-5)
    for name, rows, cosine, median, served in read.table("test-tasks")[1:]:
        of = np.flatnonzero(given["test_task"] == int(name[-1]))
        assert int(rows) == len(of)
        assert float(cosine) == pytest.approx(table[:, of].max(axis=0).mean(), abs=6e-5)
        assert float(median) == pytest.approx(np.median(table[:, of].argmax(axis=0)) + 1, abs=0.51)
        near = np.isin(table.argmax(axis=1), of).mean()
        assert float(served) == pytest.approx(100 * near, abs=0.06)
    medians = [float(line[3]) for line in read.table("train-tasks")[1:]]
    assert medians == sorted(medians)
    nearness = [line[2] for line in read.table("test-tasks")[1:]]
    assert nearness == sorted(nearness)
    ranked = sorted(range(5), key=lambda j: -table[:, j].max())
    lines = read.table("test-rows")[1:]
    assert [line[0].split("unseen")[0] for line in lines] == [f"test-{j}" for j in ranked]
    for line, j in zip(lines, ranked, strict=True):
        for cell, place in zip(line[1:], np.argsort(-table[:, j])[:3], strict=True):
            assert cell.startswith(f"{table[place, j]:.3f}position {place + 1}, turn 1")
    met = np.sort(table.argmax(axis=0)) + 1
    assert f"have met theirs by position {met[2]}, all of them by position {met[4]}" in read.said()
    assert "lists 47 of 60 training rows in 1 turn," in read.said()


def test_pairs_stand_side_by_side_with_their_texts(tmp_path):
    given = make()
    read = Page(explain(tmp_path / "page.html", **given))
    table, order = cosines(given), given["arrangement"].order
    said = read.said()
    place, j = np.unravel_index(table.argmax(), table.shape)
    best = f"cosine {table.max():.3f} · position {place + 1} of 60 · turn 1"
    pair = f"{best} Training row train-{order[place]} task_{given['task'][order[place]]} user ask "
    assert f"{pair}{order[place]} answer say {order[place]} Test row test-{j} " in said
    best_of = table.max(axis=0)
    worst = int(best_of.argmin())
    unlike = said[said.index("Test rows that nothing resembles") :]
    place = int(table[:, worst].argmax())
    first = unlike[: unlike.index("cosine", unlike.index("cosine") + 1)]
    assert f"cosine {best_of.min():.3f} · position {place + 1} of 60" in first
    assert f"Training row train-{order[place]} " in first
    assert f"Test row test-{worst} " in first
    for heading in ("At the start", "In the middle", "At the end"):
        assert heading in said
    assert "positions 46 – 60, whose cosine" in said
    assert f"is {np.median(table[45:].max(axis=1)):.3f} in the median" in said


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path):
    path = explain(tmp_path / "page.html", **make())
    read = Page(path)
    assert "://" not in path.read_text()
    assert not read.all("script")
    assert not read.all("link")
    (rule,) = [m["content"] for m in read.all("meta") if "http-equiv" in m]
    assert rule.startswith("default-src 'none';")
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]
    assert all(cell.get("scope") in ("row", "col") for cell in read.all("th"))
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    pointed = {attrs["aria-labelledby"] for _, attrs in read.tags if "aria-labelledby" in attrs}
    assert pointed <= set(ids)
    assert len(read.all("img")) == len(read.all("figcaption")) == len(read.drawn()) == 5
    assert all(len(image["alt"]) > 40 for image in read.all("img"))
    assert path.stat().st_size < 1_000_000


def test_the_same_input_gives_the_same_bytes(tmp_path):
    given = make(n=700, tests=9)
    first = explain(tmp_path / "a.html", **given).read_bytes()
    assert explain(tmp_path / "b.html", **given).read_bytes() == first
    assert (
        explain(tmp_path / "c.html", **given, search=Search(block_size=256)).read_bytes() == first
    )


def test_texts_and_names_are_never_markup(tmp_path):
    given = make(
        tasks=2,
        test_tasks=2,
        title=EVIL,
        facts={EVIL: EVIL},
        leakage=leakage(rule=EVIL),
        read_train=lambda row: Instance(
            EVIL, EVIL, (Turn("user", f"{EVIL}{row}"), Turn("assistant", EVIL * 30)), (EVIL,)
        ),
        read_test=lambda row: Instance(
            EVIL,
            EVIL,
            (Turn("system", EVIL), Turn("user", EVIL), Turn("assistant", "</details>")),
            (),
        ),
    )
    given["tasks"] = given["test_tasks"] = [EVIL, "b"]
    read = Page(explain(tmp_path / "page.html", **given))
    assert not read.all("script")
    assert [EVIL, EVIL] in read.tables[-1]
    assert read.table("train-tasks")[1][0] in (EVIL, "b")
    assert any("<script>" in told for told in read.drawn())
    assert read.all("details")


def test_long_texts_are_cut_and_open(tmp_path):
    words = "word " * 400
    given = make(read_train=lambda row: instance("train", row, user=words))
    read = Page(explain(tmp_path / "page.html", **given))
    assert len(read.all("details")) == len(read.all("summary")) > 8
    assert "word…" in read.said()
    assert words.strip() in read.said()


def test_leakage_is_a_warning_only_where_something_leaked(tmp_path):
    def build(found):
        read = Page(explain(tmp_path / "page.html", **make(leakage=found)))
        cells = [attrs.get("class", "") for tag, attrs in read.tags if tag == "td"]
        return read, sum("leaked" in cell for cell in cells)

    read, marked = build(leakage(exact=1200, pairs=4000))
    assert marked == 3
    assert ["exact", "1,200", "3", "4,000", "same texts"] in read.table("leakage")
    assert ["near", "0", "0", "0", "cosine"] in read.table("leakage")
    assert "1,200 of 5,000 training rows leak 3 of 7 test rows" in read.said()
    read, marked = build(leakage())
    assert marked == 0
    assert "Nothing was found in 5,000 training rows and 7 test rows" in read.said()
    assert "Test data stands" not in read.said()
    read, _ = build(None)
    assert "Not looked for" in read.said()
    assert "leakage" not in [a.get("aria-labelledby") for t, a in read.tags if t == "div"]


def test_what_is_sampled_or_left_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "SERVED_ENTRIES", 0)
    monkeypatch.setattr(tables, "MAX_TASKS", 20)
    monkeypatch.setattr(maps, "NAMED_TEST_TASKS", 3)
    given = make(n=3000, tests=60, tasks=276, test_tasks=50)
    read = Page(explain(tmp_path / "page.html", **given))
    said = read.said()
    assert "Counted on 2,000 of 3,000 rows, evenly spaced in the order." in said
    assert "The 12 of 276 tasks that make up the largest share" in said
    assert "The 20 most frequent of 276 tasks." in said
    assert "The 20 least resembled of 50 tasks." in said
    assert "47 more, to which" in said
    assert "40 of 60 test rows, evenly spaced" in said
    assert any("264 other tasks" in told for told in read.drawn())
    assert len(read.table("train-tasks")) == 21
    exact = Page(explain(tmp_path / "page.html", **make()))
    assert exact.said().count("All rows are counted.") == 2


@pytest.mark.parametrize(
    "sizes",
    [
        {"n": 1, "tests": 1, "tasks": 1, "test_tasks": 1, "columns": 1},
        {"n": 1, "tests": 4, "tasks": 1, "test_tasks": 1},
        {"n": 2, "tests": 1, "tasks": 2, "test_tasks": 1},
        {"n": 9, "tests": 12, "tasks": 1, "test_tasks": 12},
        {"n": 30, "tests": 1, "tasks": 30, "test_tasks": 1},
    ],
)
def test_small_and_odd_sizes(tmp_path, sizes):
    read = Page(explain(tmp_path / "page.html", **make(**sizes)))
    assert "nan" not in read.said().lower()
    assert "inf " not in read.said()
    assert len(read.drawn()) >= 4


def test_more_turns_than_bins_and_turns_that_are_mixed_or_far_apart(tmp_path):
    given = make(n=2000)
    numbers = np.random.default_rng(0).permutation(2000)
    for turn, told in (
        (np.arange(1, 2001), "2,000 turns, each of 1 row."),
        (numbers + 1, "The turn changes 1,999 times"),
        (np.where(numbers < 3, 2**31 - 1, 5), "2 turns, each of 3 to 1,997 rows, 1,000 in the"),
    ):
        given["arrangement"] = Arrangement(numbers, turn)
        assert told in Page(explain(tmp_path / "page.html", **given)).said()


def test_rows_all_alike_and_rows_of_zeros(tmp_path):
    given = make()
    for value in (0.0, 1.0):
        given["train_rows"] = np.full((60, 6), value, np.float32)
        given["test_rows"] = np.full((5, 6), value, np.float16)
        read = Page(explain(tmp_path / "page.html", **given))
        assert float(read.table("stretches")[1][2]) == value
        assert "nan" not in read.said().lower()


def test_few_instances_are_read(tmp_path):
    given, asked = make(n=3000, tests=500, test_tasks=40), []
    for side in ("train", "test"):
        given[f"read_{side}"] = lambda row, s=side: (asked.append(type(row)), instance(s, row))[1]
    explain(tmp_path / "page.html", **given)
    assert len(asked) < 200
    assert set(asked) == {int}


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    given = make()
    empty = Arrangement(np.empty(0, int), np.empty(0, int))
    wrong = {
        "arrangement is empty": {"arrangement": empty},
        "test set is empty": {"test_rows": np.empty((0, 6), np.float32)},
        "names row 59, but there are 50 training": {"train_rows": given["train_rows"][:50]},
        r"tasks of training rows are \(7,\)": {"task": np.zeros(7, int)},
        r"tasks of test rows are \(5,\) float64": {"test_task": np.zeros(5)},
        "training rows have tasks 0 to 3, but 2 are named": {"tasks": ["a", "b"]},
        "test: row 3 holds a NaN": {"test_rows": np.where(np.arange(5)[:, None] == 3, np.nan, 1.0)},
        "train has 6 columns and test has 4": {"test_rows": np.ones((5, 4), np.float32)},
    }
    for message, change in wrong.items():
        with pytest.raises(UserError, match=message):
            explain(tmp_path / "page.html", **{**given, **change})
    assert not list(tmp_path.iterdir())
