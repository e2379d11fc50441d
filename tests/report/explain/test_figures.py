import numpy as np
import pytest

from zsg_jax.report.explain import figures
from zsg_jax.report.explain.measures import Measured


def similarity(turn):
    values = np.linspace(0.9, 0.1, len(turn), dtype=np.float32)
    nearest = np.array([[0], [len(turn) - 1]])
    found = Measured(values - 0.1, values, np.zeros(len(turn), int), np.ones((2, 1)), nearest)
    return figures.similarity_figure(found, np.asarray(turn))


def upright(ax):
    """Places of the lines drawn from bottom to top."""
    return [line.get_xdata()[0] for line in ax.get_lines() if list(line.get_ydata()) == [0, 1]]


def test_few_changes_of_turn_are_lines_and_many_are_told():
    few = similarity(np.repeat([1, 2, 3, 4], 10)).figure
    assert upright(few.axes[0]) == upright(few.axes[1]) == [10, 20, 30]
    many = similarity(np.arange(1, 3001))
    assert upright(many.figure.axes[0]) == []
    assert "The turn changes 2,999 times" in many.caption


def test_the_share_of_test_rows_met_counts_from_the_first_position():
    line = similarity(np.ones(40, int)).figure.axes[1].get_lines()[0]
    assert line.get_xdata().tolist() == [0, 1, 40, 40]
    assert line.get_ydata().tolist() == [0, 50, 100, 100]


def test_turn_sizes_are_drawn_for_more_than_one_turn():
    assert figures.turns_figure(np.ones(9, int)) is None
    few = figures.turns_figure(np.array([1, 1, 1, 2, 5, 5])).figure
    assert few.axes[0].patches[0].get_data().values.tolist() == [3, 1, 2]
    many = figures.turns_figure(np.arange(1, 5001)).figure
    assert len(many.axes[0].patches[0].get_data().values) == figures.MAX_BARS


def hovers(ax):
    return [text for told in vars(ax)["told"] for text in told.texts]


def test_what_is_told_of_turns_and_of_rows_met_is_so():
    sizes = 1 + np.arange(1, 1001) % 3
    left = figures.turns_figure(np.repeat(np.arange(1, 1001), sizes)).figure.axes[0]
    for text in hovers(left):
        first, _, rest = text.removeprefix("turns ").partition(" to ")
        last, _, rows = rest.partition(": ")
        mean = sizes[int(first.replace(",", "")) - 1 : int(last.replace(",", ""))].mean()
        assert float(rows.split()[0]) == pytest.approx(mean, rel=1e-3)
    nearest = np.sort(np.random.default_rng(0).integers(20, size=(1000, 1)), axis=0)
    values = np.ones(40, np.float32)
    found = Measured(values, values, np.zeros(40, int), np.ones((1000, 1)), nearest)
    figure = figures.similarity_figure(found, np.ones(40, int)).figure
    told = [f"by row {k + 1}: {(nearest <= k).sum():,} of 1,000 test rows" for k in range(20)]
    assert hovers(figure.axes[1]) == told


def test_the_axis_of_the_mix_ends_early_where_named_tasks_are_few():
    few = figures.mix_figure(np.tile(np.arange(100), 10), [str(i) for i in range(100)])
    assert few.figure.axes[0].get_ylim() == pytest.approx((0, 1.15 * figures.NAMED_TASKS))
    whole = figures.mix_figure(np.tile(np.arange(3), 10), ["a", "b", "c"])
    assert whole.figure.axes[0].get_ylim() == (0, 100)


def test_every_task_of_the_mix_is_named():
    names = ["_first", "second", "__third", "$x$"]
    legend = figures.mix_figure(np.arange(40) % 4, names).figure.axes[0].get_legend()
    assert sorted(one.get_text() for one in legend.get_texts()) == sorted(names)
