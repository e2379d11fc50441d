import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.errors import UserError
from zsg_jax.similarity.distances import centroid_distance, distances, group_means, wsd
from zsg_jax.similarity.rows import HOST_ROWS

SEEDS = st.integers(0, 2**32 - 1)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def gaussian(seed, n, t):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, 12)), generator.normal(size=(t, 12))


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(1, 12))
def test_distances_agree_with_float64(seed, n, t):
    train, test = gaussian(seed, n, t)
    every = -unit(train) @ unit(test).T
    found = distances(train, test)
    for name, expected in (("minimum", every.min(1)), ("maximum", every.max(1))):
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-6)
    np.testing.assert_allclose(found.average, every.mean(1), atol=1e-6)
    assert {field.dtype for field in found} == {np.dtype(np.float32)}


def test_a_row_unlike_all_has_distance_zero_without_a_sign():
    found = distances(np.zeros((1, 3)), np.eye(3))
    assert [field.tolist() for field in found] == [[0.0]] * 3
    assert not any(np.signbit(field).any() for field in found)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=20))
def test_wsd_is_the_weighted_sum_it_says(pairs):
    minimum, average = (np.array(column) for column in zip(*pairs, strict=True))
    found = wsd(minimum, average, w_min=2.0, w_avg=-0.5)
    assert (found.w_min, found.w_avg) == (2.0, -0.5)
    assert found.distance.tolist() == [2.0 * m - 0.5 * a for m, a in pairs]


def test_the_default_weights_make_both_terms_weigh_alike():
    minimum, average = np.float32([-0.5, -0.25, -0.75]), np.float32([-0.25, 0.0, -0.125])
    found = wsd(minimum, average)
    assert (found.w_min, found.w_avg) == (1.0, 4.0)
    assert found.distance.tolist() == [-1.5, -0.25, -1.25]
    assert found.distance.dtype == np.float64
    assert (found.w_avg * average).mean() == pytest.approx(minimum.mean())


def test_an_average_of_zero_gets_no_weight():
    found = wsd(np.array([-1.0, 0.5]), np.array([0.25, -0.25]))
    assert (found.w_avg, found.distance.tolist()) == (0.0, [-1.0, 0.5])
    assert wsd(np.zeros(0), np.zeros(0)).distance.tolist() == []


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 30), st.integers(1, 8))
def test_centroids_agree_with_float64(seed, n, t):
    train, test = gaussian(seed, n, t)
    a, b = unit(train).mean(0), unit(test).mean(0)
    expected = -(a @ b) / np.linalg.norm(a) / np.linalg.norm(b)
    assert centroid_distance(train, test) == pytest.approx(expected, abs=1e-5)
    assert centroid_distance(np.eye(12) * 0, test) == 0.0


@pytest.mark.parametrize("n", [1, 50, HOST_ROWS + 7])
def test_group_means_agree_with_a_loop(n):
    rows = np.random.default_rng(n).normal(size=(n, 4))
    groups = np.arange(n) % min(n, 3)
    expected = [unit(rows[groups == group]).mean(0) for group in range(min(n, 3))]
    np.testing.assert_allclose(group_means(rows, groups), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distances(np.eye(3), np.zeros((0, 3))), "test set is empty"),
        (lambda: distances(np.eye(3), np.eye(2)), "3 columns and test has 2"),
        (lambda: centroid_distance(np.eye(3), np.zeros((0, 3))), "test is empty"),
        (lambda: centroid_distance(np.zeros((0, 3)), np.eye(3)), "train is empty"),
        (lambda: group_means(np.eye(3), np.zeros(2, int)), r"3 rows, but groups are \(2,\)"),
        (lambda: wsd(np.zeros(3), np.zeros(2)), r"must be \(N,\)"),
        (lambda: wsd(np.array([np.nan]), np.zeros(1)), "NaN"),
        (lambda: wsd(np.zeros(1), np.zeros(1), w_avg=np.inf), "must be finite"),
    ],
)
def test_what_has_no_distance_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_a_bad_row_is_named_wherever_it_stands():
    rows = np.ones((HOST_ROWS + 7, 2))
    rows[HOST_ROWS + 3] = np.nan
    with pytest.raises(UserError, match=f"train: row {HOST_ROWS + 3} holds a NaN"):
        centroid_distance(rows, rows[:1])
