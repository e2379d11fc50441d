import numpy as np
import pytest

from zsg_jax.report.explain import maps
from zsg_jax.report.explain.maps import map_figure, project, served_figure
from zsg_jax.report.svg import to_svg


def rows(n, columns, seed=0):
    scales = 2.0 ** -np.arange(columns)
    return (np.random.default_rng(seed).normal(size=(n, columns)) * scales).astype(np.float32)


def test_the_plane_is_that_of_the_largest_singular_values(monkeypatch):
    monkeypatch.setattr(maps, "TRAIN_POINTS", 40)
    monkeypatch.setattr(maps, "TEST_POINTS", 9)
    train, test = rows(120, 8), rows(30, 8, 1)
    order = np.random.default_rng(2).permutation(120)[:100]
    found = project(order, train, test)
    assert found.positions[[0, -1]].tolist() == [0, 99]
    assert (len(found.train), len(found.test)) == (40, 9)
    shown = np.round(np.linspace(0, 29, 9)).astype(int)
    points = np.concatenate([train[order[found.positions]], test[shown]]).astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points -= points.mean(axis=0)
    left, values, _ = np.linalg.svd(points, full_matrices=False)
    told = left[:, :2] * values[:2]
    np.testing.assert_allclose(found.explained, values[:2] ** 2 / (values**2).sum(), atol=1e-4)
    drawn = np.concatenate([found.train, found.test])
    # The sign of a direction is free.
    np.testing.assert_allclose(np.abs(drawn), np.abs(told), atol=1e-3)


@pytest.mark.parametrize(("n", "tests", "columns"), [(1, 1, 1), (1, 1, 5), (4, 1, 1), (7, 3, 2)])
def test_few_points_and_few_columns(n, tests, columns):
    found = project(np.arange(n), rows(n, columns), rows(tests, columns, 1))
    assert found.train.shape == (n, 2)
    assert found.test.shape == (tests, 2)
    assert np.isfinite(found.train).all()
    assert np.isfinite(found.test).all()
    assert 0 <= found.explained.sum() <= 1 + 1e-6


def test_rows_all_alike_lie_on_one_point():
    found = project(np.arange(5), np.ones((5, 3), np.float32), np.ones((2, 3), np.float32))
    assert not found.train.any()
    assert not found.test.any()
    assert not found.explained.any()


def test_thousands_of_points_are_a_picture_inside_the_svg():
    drawn = map_figure(np.arange(4000), np.arange(4000), rows(4000, 5), rows(1000, 5, 1))
    svg = to_svg(drawn.figure)
    assert b"<image" in svg
    assert len(svg) < 700_000
    assert "4,000 of 4,000 rows" in drawn.caption
    assert "may be far apart in the rest" in drawn.caption
    flat = map_figure(np.arange(9), np.arange(9), rows(9, 2), rows(3, 2, 1)).caption
    assert "100.0 % of the variance." in flat


def test_a_heat_map_has_a_line_a_task_and_the_share_of_each_stretch():
    nearest = np.repeat([0, 1, 1, 1], 30)
    drawn = served_figure(nearest, ["one", "two"], np.array([0, 0, 1]))
    ax = drawn.figure.axes[0]
    # The task with the most rows near it comes first.
    assert [label.get_text() for label in ax.get_yticklabels()] == ["two (1)", "one (2)"]
    shares = ax.collections[0].get_array()
    assert shares[:, 0].tolist() == [0, 100]
    assert shares[:, -1].tolist() == [100, 0]
