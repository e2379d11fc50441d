import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.distances import distances, wsd

SEEDS = st.integers(0, 2**32 - 1)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def gaussian(seed, n, t):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, 12)), generator.normal(size=(t, 12))


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 40), st.integers(1, 140), st.booleans())
def test_distances_agree_with_float64(seed, n, t, euclidean):
    train, test = gaussian(seed, n, t)
    if euclidean:
        every = np.array([[np.linalg.norm(a - b) for b in unit(test)] for a in unit(train)])
        found = distances(train, test, distance="euclidean")
        # The error of a cosine over the distance, which is far from 0 here.
        slack = 5e-7 / every.min()
    else:
        every, slack = -unit(train) @ unit(test).T, 1e-6
        found = distances(train, test)
    np.testing.assert_allclose(found.minimum, every.min(1), atol=slack)
    np.testing.assert_allclose(found.maximum, every.max(1), atol=slack)
    np.testing.assert_allclose(found.average, every.mean(1), atol=1e-6)
    assert {field.dtype.itemsize for field in found} == {8 if euclidean else 4}


def test_orders_by_minimum_and_maximum_are_the_same_under_both_metrics():
    train, test = gaussian(0, 3000, 50)
    one, other = distances(train, test), distances(train, test, distance="euclidean")
    for field in ("minimum", "maximum"):
        places = [np.argsort(getattr(both, field), kind="stable") for both in (one, other)]
        np.testing.assert_array_equal(*places)
    assert (np.argsort(one.average) != np.argsort(other.average)).any()


@pytest.mark.parametrize(
    ("angle", "accuracy"), [(0.0, 2e-3), (0.01, 1e-4), (0.1, 1e-5), (1.0, 1e-6), (np.pi, 1e-6)]
)
def test_a_euclidean_distance_is_as_accurate_as_told(angle, accuracy):
    generator = np.random.default_rng(1)
    a, b = np.linalg.qr(generator.normal(size=(384, 2)))[0].T
    turned = np.cos(angle) * a + np.sin(angle) * b
    expected = 2 * np.sin(angle / 2)
    found = distances(a[None], np.stack([turned] * 3), distance="euclidean")
    np.testing.assert_allclose([*found], [[expected]] * 3, atol=accuracy)


def test_nothing_is_nearer_than_itself():
    rows = gaussian(3, 400, 1)[0]
    found = distances(rows, rows, distance="euclidean")
    assert found.minimum.max() < 2e-3
    assert not np.isnan(found).any()


def test_a_zero_row_is_at_right_angles_to_everything_and_zero_has_no_sign():
    found = distances(np.zeros((1, 3)), np.eye(3), distance="euclidean")
    np.testing.assert_allclose([*found], [[np.sqrt(2)]] * 3, rtol=1e-7)
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
    # What is left of a mean of zero after float32 decides nothing either.
    found = wsd(np.array([-1.0, 0.5]), np.array([0.25, -0.2500001]))
    assert found.w_avg == 0.0
    assert wsd(np.zeros(0), np.zeros(0)).distance.tolist() == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distances(np.eye(3), np.zeros((0, 3))), "test set is empty"),
        (lambda: distances(np.eye(3), np.eye(3), distance="euclid"), "did you mean euclidean"),
        (lambda: distances(np.eye(3), np.eye(2)), "3 columns and test has 2"),
        (lambda: wsd(np.zeros(3), np.zeros(2)), r"must be \(N,\)"),
        (lambda: wsd(np.array([np.nan]), np.zeros(1)), "NaN"),
        (lambda: wsd(np.zeros(1), np.zeros(1), w_avg=np.inf), "must be finite"),
    ],
)
def test_what_has_no_distance_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
