"""Figures: what is drawn of what numbers, in the same bytes, whatever names are."""

import re
import xml.etree.ElementTree as ET

import numpy as np
from matplotlib import rcParams

from zsg_jax.report import figures
from zsg_jax.report.drawing import COLORS, looks, shorten
from zsg_jax.report.metrics import METRICS, Metric
from zsg_jax.report.summary import summarize
from zsg_jax.report.svg import to_svg
from zsg_jax.similarity.trajectory import MEASURES

SVG = "{http://www.w3.org/2000/svg}"


def texts(drawn):
    root = ET.fromstring(to_svg(drawn.figure))
    return [" ".join(e.itertext()).strip() for e in root.iter(f"{SVG}text")]


def shown(drawn):
    return [ax for ax in drawn.figure.axes if ax.get_visible()]


def test_a_metric_is_a_line_an_arrangement_and_a_band_of_its_seeds(make_runs):
    summary = summarize(make_runs())
    drawn = figures.metric_figure(summary)
    assert {"nft", "fft", "step", "test loss"} <= set(texts(drawn))
    (ax,) = drawn.figure.axes
    line, entry = ax.get_lines()[0], summary["arrangements"]["nft"]
    assert line.get_xdata().tolist() == entry["steps"]
    assert line.get_ydata().tolist() == entry["loss_mean"]
    assert len(ax.collections) == 2


def test_a_further_metric_is_one_entry(make_runs, monkeypatch):
    monkeypatch.setitem(METRICS, "rouge", Metric("ROUGE", "ROUGE-L", "Of answers.", max))
    runs = make_runs(rouge=7.0, rouge_by_task={"t1": 8.0, "t2": 6.0}, exact=1.0)
    summary = summarize(runs)
    assert figures.metric_figure(summary, "rouge").figure.axes[0].get_ylabel() == "ROUGE-L"
    drawn = figures.by_group_figure(summary, "rouge")
    assert drawn.figure.axes[0].get_lines()[0].get_ydata().tolist() == [8.0] * 4
    # Other numbers share a figure, a panel each.
    assert [ax.get_ylabel() for ax in figures.scores_figure(summary).figure.axes] == ["exact"]
    assert figures.scores_figure(summarize(make_runs())) is None
    assert figures.metric_figure(summarize(make_runs()), "rouge") is None


def test_an_arrangement_has_one_look_in_every_figure_and_the_bytes_are_the_same(make_runs):
    before = dict(rcParams)

    def build():
        runs = make_runs()
        summary = summarize(runs)
        drawn = (
            figures.metric_figure(summary),
            figures.by_group_figure(summary),
            figures.train_loss_figure(runs),
        )
        return [to_svg(one.figure).decode() for one in drawn]

    first = build()
    assert first == build()
    assert dict(rcParams) == before
    for svg in first:
        drawn = {color.upper() for color in re.findall(r"stroke: (#[0-9a-f]{6})", svg)}
        assert drawn & set(COLORS) == {look.color for look in looks(("nft", "fft")).values()}
    many = looks(f"a{i}" for i in range(28))
    assert len({(look.color, str(look.dash)) for look in many.values()}) == 28


def test_tasks_are_drawn_from_zero_and_of_many_some_as_the_figure_says(make_runs):
    few = make_runs(names=("nft",), tasks="abc") | make_runs(names=("fft",), tasks="ab")
    drawn = figures.by_group_figure(summarize(few))
    assert [len(ax.get_lines()) for ax in shown(drawn)] == [2, 2, 1]
    assert all(ax.get_ylim()[0] == 0 for ax in shown(drawn))
    assert not any("left out" in text for text in texts(drawn))

    summary = summarize(make_runs(tasks=[f"task{i:02d}" for i in range(60)]))
    picked, total = figures.pick_tasks(summary)
    assert (len(picked), len(set(picked)), total) == (24, 24, 60)
    assert {"task00", "task59"} <= set(picked)  # lowest and highest final loss
    written = texts(figures.by_group_figure(summary))
    assert {text for text in written if text.startswith("task")} == set(picked)
    assert any(text.startswith("24 of 60 tasks") and "36 left out" in text for text in written)


def test_train_loss_is_smoothed_and_says_over_how_many_steps(make_runs):
    drawn = figures.train_loss_figure(make_runs(train=200))
    assert "training loss, mean of up to 5 steps" in texts(drawn)
    assert figures.train_loss_figure(make_runs(train=0)) is None


def test_any_name_gives_well_formed_svg(make_runs):
    assert shorten("a" * 20 + "b" * 20, 11) == "aaaaa…bbbbb"
    names = ["<script>alert(1)</script>", "$x_1$", "a & b", "\x01", "任务 \u202e", "tab\tnul\x00"]
    drawn = figures.by_group_figure(summarize(make_runs(names, tasks=names)))
    assert {shorten(name).strip() for name in names} <= set(texts(drawn))


def test_every_measure_has_a_panel_beside_the_loss(make_runs, make_trajectory):
    names = [f"arrangement-{i}" for i in range(9)]
    values = {measure: [3.0, 2.0, 1.0] for measure in MEASURES}
    trajectories = {name: make_trajectory(values) for name in names}
    drawn = figures.similarity_figure(summarize(make_runs(names)), trajectories)
    titles = [ax.get_title(loc="left") for ax in shown(drawn)]
    assert titles == [*figures.TITLES.values(), "test loss"]
    assert all(len(ax.get_lines()) == 9 for ax in shown(drawn))
    written = texts(drawn)
    assert all(written.count(name) == 1 for name in names)
    assert {"distance", "nats", "step"} <= set(written)


def test_a_measure_taken_seldom_is_a_line_through_what_there_is(make_runs, make_trajectory):
    summary = summarize(make_runs(("one", "two")))
    trajectories = {"two": make_trajectory({"transport": [0.5, np.nan, 0.25]})}
    drawn = figures.similarity_figure(summary, trajectories)
    (line,) = drawn.figure.axes[0].get_lines()
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([10, 30], [0.5, 0.25])
    # The trajectory of "two" alone keeps that arrangement's colour.
    assert line.get_color() == looks(["one", "two"])["two"].color
    assert figures.similarity_figure(summary, {}) is None


def test_each_task_has_a_panel_of_the_first_measure(make_runs, make_trajectory):
    summary = summarize(make_runs(("one",)))
    values = {"average": [3, 2, 1], "nearest": [6, 5, 4]}
    drawn = figures.similarity_by_task_figure(
        summary, {"one": make_trajectory(values, ("t1", "t2"))}
    )
    assert {"t1", "t2"} <= set(texts(drawn))
    assert drawn.figure.axes[1].get_lines()[0].get_ydata().tolist() == [6, 5, 4]
    without = {"one": make_trajectory(values)}, {}
    assert [figures.similarity_by_task_figure(summary, one) for one in without] == [None, None]


def test_distances_that_end_before_training_does_say_where(make_runs, make_trajectory):
    summary = summarize(make_runs(("one", "two")))  # to step 30
    whole, half = (make_trajectory({"nearest": [3.0, 2.0, 1.0][:n]}, ("t1", "t2")) for n in (3, 2))
    for draw in (figures.similarity_figure, figures.similarity_by_task_figure):
        assert "Distances end" not in draw(summary, {"one": whole, "two": whole}).caption
        cut = draw(summary, {"one": whole, "two": half}).caption
        assert "Distances end at step 20," in cut
