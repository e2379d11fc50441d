import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import rcParams

from zsg_jax.report import figures
from zsg_jax.report.drawing import COLORS, looks, shorten, to_svg
from zsg_jax.report.summary import summarize
from zsg_jax.similarity.trajectory import MEASURES, Trajectory

SVG = "{http://www.w3.org/2000/svg}"


def make_runs(names=("nft", "fft"), seeds=2, evaluations=4, tasks=3, train=30):
    runs = {}
    for place, name in enumerate(names):
        runs[name] = {}
        for seed in range(seeds):
            tests = []
            for e in range(evaluations):
                loss = 3.0 / (1 + e) + 0.2 * place + 0.05 * seed
                by_task = {f"task{t:02d}": loss + 0.1 * t for t in range(tasks)}
                tests.append(
                    {"step": 10 * e, "kind": "test", "loss": loss, "loss_by_task": by_task}
                )
            steps = [{"step": s, "kind": "train", "loss": 3 - s / 50} for s in range(1, train + 1)]
            runs[name][seed] = tests + steps
    return runs


def texts(drawn):
    root = ET.fromstring(to_svg(drawn.figure))
    return [" ".join(e.itertext()).strip() for e in root.iter(f"{SVG}text")]


def drawn_colors(drawn):
    """Colours of stroked paths in the SVG that belong to the palette."""
    found = re.findall(r"stroke: (#[0-9a-f]{6})", to_svg(drawn.figure).decode())
    return {color.upper() for color in found} & {color.upper() for color in COLORS}


def test_loss_figure_names_every_arrangement_and_its_axes():
    summary = summarize(make_runs())
    drawn = figures.loss_figure(summary)
    assert {"nft", "fft", "step", "test loss"} <= set(texts(drawn))
    (ax,) = drawn.figure.axes
    line = ax.get_lines()[0]
    entry = summary["arrangements"]["nft"]
    assert line.get_xdata().tolist() == entry["steps"]
    assert line.get_ydata().tolist() == entry["loss_mean"]
    assert len(ax.collections) == 2  # a band each


def test_an_arrangement_has_one_colour_in_every_figure():
    runs = make_runs()
    summary = summarize(runs)
    drawn = [
        figures.loss_figure(summary),
        figures.loss_by_task_figure(summary),
        figures.train_loss_figure(runs),
    ]
    style = looks(runs)
    for figure in drawn:
        assert drawn_colors(figure) == {look.color for look in style.values()}


def test_looks_differ_for_twenty_eight_arrangements():
    style = looks(f"a{i}" for i in range(28))
    assert len({(look.color, str(look.dash)) for look in style.values()}) == 28


def test_sixty_tasks_are_capped_and_the_figure_says_so():
    summary = summarize(make_runs(tasks=60))
    picked, total = figures.pick_tasks(summary)
    assert (len(picked), len(set(picked)), total) == (24, 24, 60)
    assert {"task00", "task59"} <= set(picked)  # lowest and highest final loss
    written = texts(figures.loss_by_task_figure(summary))
    assert set(picked) <= set(written)
    assert "task01" not in written or "task01" in picked
    assert any(text.startswith("24 of 60 tasks") and "36 left out" in text for text in written)


def test_few_tasks_are_all_drawn_from_zero():
    drawn = figures.loss_by_task_figure(summarize(make_runs(tasks=5)))
    shown = [ax for ax in drawn.figure.axes if ax.get_visible()]
    assert len(shown) == 5
    assert all(ax.get_ylim()[0] == 0 for ax in shown)
    assert not any("left out" in text for text in texts(drawn))


def test_a_task_that_only_one_arrangement_has():
    runs = make_runs(names=("nft",), tasks=3) | make_runs(names=("fft",), tasks=2)
    drawn = figures.loss_by_task_figure(summarize(runs))
    assert [len(ax.get_lines()) for ax in drawn.figure.axes] == [2, 2, 1]


def test_train_loss_is_smoothed_and_says_over_how_many_steps():
    drawn = figures.train_loss_figure(make_runs(train=200))
    assert "training loss, mean of 5 steps" in texts(drawn)
    assert figures.train_loss_figure(make_runs(train=0)) is None


def test_scores_have_a_panel_each():
    runs = make_runs()
    assert figures.scores_figure(summarize(runs)) is None
    for by_seed in runs.values():
        for rows in by_seed.values():
            for row in rows:
                if row["kind"] == "test":
                    row |= {"rougeL": 10.0 + row["step"], "exact_match": 1.0}
    drawn = figures.scores_figure(summarize(runs))
    assert [ax.get_ylabel() for ax in drawn.figure.axes] == ["exact_match", "rougeL"]


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.integers(0, 6))
def test_running_mean_equals_the_plain_one(values, half):
    expected = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    got = figures.running_mean(np.array(values), 2 * half + 1)
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_shorten_keeps_both_ends_and_drops_control_characters():
    assert shorten("a" * 20 + "b" * 20, 11) == "aaaaa…bbbbb"
    assert shorten("tab\tand\x00nul") == "tab and nul"


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "$x_1$", "a & b", "\x01", "任务 \u202e"]
)
def test_any_name_gives_well_formed_svg(name):
    runs = make_runs(names=(name, "other"), tasks=2)
    for rows in runs["other"].values():
        for row in rows:
            if row["kind"] == "test":
                row["loss_by_task"][name] = 1.0
    summary = summarize(runs)
    for drawn in (figures.loss_figure(summary), figures.loss_by_task_figure(summary)):
        assert shorten(name).strip() in texts(drawn)


def test_the_same_numbers_give_the_same_bytes_and_leave_no_global_state():
    before = dict(rcParams)

    def build():
        runs = make_runs()
        summary = summarize(runs)
        return [
            to_svg(figures.loss_figure(summary).figure),
            to_svg(figures.loss_by_task_figure(summary).figure),
            to_svg(figures.train_loss_figure(runs).figure),
        ]

    first, second = build(), build()
    assert first == second
    assert not any(b"<dc:date>" in svg for svg in first)
    assert dict(rcParams) == before


def make_trajectory(values, by_task=()):
    """Points at steps 10, 20, …; `values` by measure."""
    arrays = {name: np.array(curve, float) for name, curve in values.items()}
    step = 10 * np.arange(1, 1 + len(next(iter(arrays.values()))))
    return Trajectory(step, "cosine", arrays, dict.fromkeys(by_task, arrays))


def test_every_measure_has_a_panel_beside_the_loss():
    names = [f"arrangement-{i}" for i in range(9)]
    values = {measure: [3.0, 2.0, 1.0] for measure in MEASURES}
    drawn = figures.similarity_figure(
        summarize(make_runs(names)),
        {name: make_trajectory(values) for name in names},
    )
    shown = [ax for ax in drawn.figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown] == [*figures.TITLES.values(), "test loss"]
    assert len({ax.get_xlim() for ax in shown}) == 1
    written = texts(drawn)
    assert all(written.count(name) == 1 for name in names)
    assert all(len(ax.get_lines()) == 9 for ax in shown)
    assert {"distance", "nats", "step"} <= set(written)


def test_a_measure_taken_seldom_is_a_line_through_what_there_is():
    summary = summarize(make_runs(("one", "two")))
    trajectories = {"two": make_trajectory({"transport": [0.5, np.nan, 0.25]})}
    drawn = figures.similarity_figure(summary, trajectories)
    (line,) = drawn.figure.axes[0].get_lines()
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([10, 30], [0.5, 0.25])
    # The trajectory of "two" alone keeps that arrangement's colour.
    assert line.get_color() == looks(["one", "two"])["two"].color
    assert figures.similarity_figure(summary, {}) is None


def test_each_task_has_a_panel_of_the_first_measure():
    summary = summarize(make_runs(("one",)))
    values = {"average": [3, 2, 1], "nearest": [6, 5, 4]}
    drawn = figures.similarity_by_task_figure(
        summary, {"one": make_trajectory(values, ("task00", "task01"))}
    )
    assert {"task00", "task01"} <= set(texts(drawn))
    assert drawn.figure.axes[1].get_lines()[0].get_ydata().tolist() == [6, 5, 4]
    assert figures.similarity_by_task_figure(summary, {"one": make_trajectory(values)}) is None
    assert figures.similarity_by_task_figure(summary, {}) is None
