import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsg_jax.statistics.steadiness import running_mean, steadiness


@given(st.lists(st.floats(0.01, 5), min_size=6, max_size=40), st.booleans())
def test_a_curve_that_only_falls_goes_against_nothing(steps, rises):
    curve = 10 - np.cumsum(steps)
    assert steadiness(-curve if rises else curve).against == 0


def test_noise_is_counted_and_scale_does_not_matter():
    rng = np.random.default_rng(0)
    fall = np.exp(-np.arange(60) / 15)
    noisy = fall + rng.normal(0, 0.1, 60)
    quiet, loud = steadiness(fall), steadiness(noisy)
    assert quiet.against == 0 < loud.against < 0.7
    assert quiet.noise < 0.02 < 0.05 < loud.noise < 0.2
    assert steadiness(100 - 40 * noisy) == pytest.approx(loud)


def test_what_does_not_move_or_is_too_short_has_none():
    assert steadiness(np.ones(20)) is None
    assert steadiness(np.arange(4.0)) is None
    assert steadiness(np.array([1.0, np.nan, 2, 3, 4])) is None


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=20), st.sampled_from([1, 3, 5, 9]))
def test_the_running_mean_is_symmetric(values, window):
    expected = []
    for i in range(len(values)):
        half = min(window // 2, i, len(values) - 1 - i)
        expected.append(np.mean(values[i - half : i + half + 1]))
    assert running_mean(np.array(values), window) == pytest.approx(np.array(expected))
