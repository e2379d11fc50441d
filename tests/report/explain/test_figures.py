import xml.etree.ElementTree as ET

import numpy as np
import pytest

from zsg_jax.report.drawing import to_svg
from zsg_jax.report.explain import figures, maps
from zsg_jax.report.explain.bins import bin_edges

SVG = "{http://www.w3.org/2000/svg}"


def texts(figure):
    root = ET.fromstring(to_svg(figure))
    return [" ".join(e.itertext()).strip() for e in root.iter(f"{SVG}text")]


def similarity(turn):
    values = np.linspace(0.9, 0.1, len(turn), dtype=np.float32)
    first = np.array([0, len(turn) - 1])
    edges = bin_edges(len(turn), 20)
    return figures.similarity_figure(values - 0.1, values, first, np.asarray(turn), edges)


def upright(ax):
    """Places of the lines drawn from bottom to top."""
    return [line.get_xdata()[0] for line in ax.get_lines() if list(line.get_ydata()) == [0, 1]]


def test_few_turns_are_lines_and_many_are_numbers_only():
    few = similarity(np.repeat([1, 2, 3, 4], 10))
    assert upright(few.axes[0]) == upright(few.axes[1]) == [10, 20, 30]
    assert {"turn", "1", "2", "3", "4"} <= set(texts(few))
    many = similarity(np.arange(1, 3001))
    assert upright(many.axes[0]) == []
    assert "turn" in texts(many)
    assert "2,626" in texts(many)


def test_turns_that_are_mixed_have_no_place_and_one_turn_no_mark():
    assert "turn" not in texts(similarity(np.array([1, 2, 1, 2, 3, 1] * 20)))
    assert "turn" not in texts(similarity(np.ones(30, int)))
    assert "turn" in texts(similarity(np.repeat([3, 2, 1], 5)))


@pytest.mark.parametrize(
    ("turn", "starts", "follow"),
    [
        ([1], [0], True),
        ([1, 1, 4, 4, 5], [0, 2, 4], True),
        ([3, 2, 2], [0, 1], True),
        ([1, 2, 1], [0, 1, 2], False),
    ],
)
def test_where_turns_start(turn, starts, follow):
    assert figures.turn_starts(np.array(turn)).tolist() == starts
    assert figures.follow_one_another(np.array(turn)) is follow


def test_the_share_of_test_rows_met_counts_from_the_first_position():
    figure = similarity(np.ones(40, int))
    line = figure.axes[1].get_lines()[0]
    assert line.get_xdata().tolist() == [0, 1, 40, 40]
    assert line.get_ydata().tolist() == [0, 50, 100, 100]


def test_turn_sizes_are_drawn_for_more_than_one_turn():
    assert figures.turns_figure(np.ones(9, int)) is None
    figure = figures.turns_figure(np.array([1, 1, 1, 2, 5, 5]))
    sizes = figure.axes[0].patches[0].get_data()
    assert sizes.values.tolist() == [3, 1, 2]
    assert "rows in each turn" in texts(figure)
    many = figures.turns_figure(np.arange(1, 5001))
    assert len(many.axes[0].patches[0].get_data().values) == figures.MAX_BARS
    assert "rows in each turn, mean of neighbours" in texts(many)


def test_the_axis_of_the_mix_ends_early_where_named_tasks_are_few():
    edges = bin_edges(40, 4)
    few = figures.mix_figure(np.array([[0.1] * 4, [0.05] * 4, [0.85] * 4]), "ab", "rest", edges)
    assert few.axes[0].get_ylim() == pytest.approx((0, 1.15 * 15))
    assert "rest, up to 100 %" in texts(few)
    whole = figures.mix_figure(np.array([[0.4] * 4, [0.6] * 4, [0.0] * 4]), "ab", "rest", edges)
    assert whole.axes[0].get_ylim() == (0, 100)
    assert not any("rest" in text for text in texts(whole))


def test_thousands_of_points_are_a_picture_inside_the_svg():
    points = np.random.default_rng(0).normal(size=(4000, 2))
    figure = maps.map_figure(points, np.arange(4000), "turn", points[:1000], np.array([0.5, 0.1]))
    svg = to_svg(figure)
    assert b"<image" in svg
    assert len(svg) < 700_000
    assert "first direction (50.0 % of the variance)" in texts(figure)
    assert "test row" in texts(figure)
    assert "turn" in texts(figure)


def test_a_heat_map_has_a_line_a_task():
    shares = np.array([[0.25, 1.0], [0.75, 0.0]])
    figure = maps.served_figure(shares, ["one (3)", "two $x$ (4)"], np.array([0, 5, 9]))
    assert {"one (3)", "two $x$ (4)", "share of the rows, %"} <= set(texts(figure))
    drawn = figure.axes[0].collections[0]
    np.testing.assert_array_equal(drawn.get_array(), 100 * shares)
