"""Reads pages as strictly as a browser need not."""

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from zsg_jax.similarity.trajectory import Trajectory

VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}


class Page(HTMLParser):
    """A page whose tags must close in order; collects what the tests look at."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.open, self.tags, self.tables, self.text, self.spoken = [], [], [], {}, []
        self.figures, self.titles = [], []
        self.feed(path.read_bytes().decode())
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "svg":
            self.figures.append("")
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
        if "svg" in self.open:
            self.figures[-1] += data
            if self.open[-1] == "title":
                self.titles.append(data)
            return
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data
        if not {"style", "script"} & set(self.open):
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
        labels = [a["aria-labelledby"] for a in regions if a.get("role") == "region"]
        return self.tables[labels.index(name)]

    def drawn(self):
        """The text of every figure, and what is told where the pointer rests."""
        return self.figures

    def images(self):
        """The attributes of what stands for a figure where it is read aloud."""
        return [attrs for _, attrs in self.tags if attrs.get("role") == "img"]

    def check(self):
        """It asks for nothing from outside, runs its own script at most, and can be read aloud."""
        assert "://" not in self.path.read_text()
        [rule] = [one["content"] for one in self.all("meta") if "http-equiv" in one]
        allowed = re.findall(r"sha256-([^']+)", rule)
        told = [self.text["script"]] if self.all("script") else []
        digests = [hashlib.sha256(one.encode()).digest() for one in told]
        assert [base64.b64encode(one).decode() for one in digests] == allowed
        assert not self.all("link")
        assert self.all("html")[0]["lang"] == "en"
        assert all(cell.get("scope") in ("row", "col") for cell in self.all("th"))
        ids = [attrs["id"] for _, attrs in self.tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        pointed = {attrs["aria-labelledby"] for _, attrs in self.tags if "aria-labelledby" in attrs}
        assert pointed <= set(ids)
        assert len(self.images()) == len(self.all("figcaption")) == len(self.drawn())
        assert all(len(image["aria-label"]) > 40 for image in self.images())
        used = {a["href"][1:] for _, a in self.tags if a.get("href", "").startswith("#")}
        assert used <= set(ids)


@pytest.fixture(scope="session")
def read_page():
    return Page


@pytest.fixture(scope="session")
def browse():
    """Opens a page in Chromium: what it then holds, and what the console says."""

    def run(page, *flags):
        browser = shutil.which("chromium") or shutil.which("chromium-browser")
        if browser is None:
            pytest.skip("there is no chromium to open the page with")
        always = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        done = subprocess.run(
            [browser, *always, *flags, "--dump-dom", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return run


@pytest.fixture(scope="session")
def make_runs():
    """Records of runs whose loss falls as 1/(1 + evaluation)."""

    def make(names=("nft", "fft"), seeds=2, tasks=("t1", "t2"), evaluations=4, train=30, **more):
        runs = {}
        for place, name in enumerate(names):
            for seed in range(seeds):
                losses = [3.0 / (1 + e) + 0.25 * place + 0.5 * seed for e in range(evaluations)]
                tests = [
                    {"step": 10 * e, "kind": "test", "loss": loss, "instances": 8, "dropped": 2}
                    | {"loss_by_task": {task: loss + 0.125 * i for i, task in enumerate(tasks)}}
                    | more
                    for e, loss in enumerate(losses)
                ]
                steps = [{"step": s, "kind": "train", "loss": 2.0} for s in range(1, train + 1)]
                runs.setdefault(name, {})[seed] = tests + steps
        return runs

    return make


@pytest.fixture(scope="session")
def make_trajectory():
    """Points at steps 10, 20, …; `values` by measure."""

    def make(values, by_task=()):
        arrays = {name: np.array(curve, float) for name, curve in values.items()}
        step = 10 * np.arange(1, 1 + len(next(iter(arrays.values()))))
        return Trajectory(step, "cosine", arrays, dict.fromkeys(by_task, arrays))

    return make


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without pictures, for tests that look at none."""
    monkeypatch.setattr("zsg_jax.report.page.to_svg", lambda figure: b"<svg/>")
