import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.statistics.transition import logistic, transition

RULES = np.array([64, 256, 512, 768, 1024, 2048, 4096])


@settings(max_examples=25)
@given(st.floats(300, 1500), st.floats(2, 8), st.floats(0.6, 1))
def test_a_curve_of_its_own_form_is_found_again(midpoint, slope, top):
    values = dict(zip(RULES.tolist(), logistic(RULES, midpoint, slope, top), strict=True))
    found = transition({n: {0: value, 1: value} for n, value in values.items()})
    assert found[:3] == pytest.approx((midpoint, slope, top), rel=1e-3)
    if found.between is None:
        assert found.low == pytest.approx(midpoint, rel=1e-3)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("means", [[0, 0, 1], [0, 0, 0, 1], [0, 0, 0.02, 0.98, 1], [0, 0, 0.4, 1]])
def test_between_two_numbers_of_rules_any_midpoint_fits(means, seeds, recwarn):
    n = [64, 256, 1024, 4096, 16384][: len(means)]
    found = transition({a: dict.fromkeys(range(seeds), b) for a, b in zip(n, means, strict=True)})
    if 0.4 in means:
        assert found.between is None
    else:
        foot = max(index for index, mean in enumerate(means) if mean < 0.1)
        ends = (n[foot], n[foot + 1])
        assert found.between == (found.low, found.high) == ends
        assert ends[0] <= found.midpoint <= ends[1]
    assert not recwarn.list


def test_of_a_curve_that_comes_down_again_the_better_fit_is_taken():
    n, means = np.array([1, 2, 8, 13]), np.array([0, 0.5, 0.5, 1])
    found = transition({one: {0: mean} for one, mean in zip(n.tolist(), means, strict=True)})
    off = ((logistic(n, *found[:3]) - means) ** 2).sum()
    tried = (
        ((logistic(n, middle, slope, top) - means) ** 2).sum()
        for middle in np.geomspace(1, 13, 40)
        for slope in np.geomspace(0.1, 40, 40)
        for top in np.linspace(0.5, 1, 21)
    )
    assert off <= min(tried) + 1e-3


def test_the_interval_covers_what_seeds_differ_in():
    middles = {0: 500, 1: 700, 2: 900}
    values = {
        n: {seed: float(logistic(np.array(n), middle, 5, 0.9)) for seed, middle in middles.items()}
        for n in RULES.tolist()
    }
    found = transition(values)
    assert 499 < found.low < found.midpoint < found.high <= 901
    assert 600 < found.midpoint < 800
    assert transition(values) == found
    one = transition({n: {1: by_seed[1]} for n, by_seed in values.items()})
    assert one.midpoint == pytest.approx(700, rel=1e-3)
    assert one.low is None


@pytest.mark.parametrize(
    "values",
    [
        {},
        {8: {0: 0.0}, 9: {0: 1.0}},
        {8: {0: 0.0}, 9: {0: 0.05}, 10: {0: 0.02}},
        {8: {0: 0.9}, 9: {0: 0.9}, 10: {0: 0.9}},
        {8: {0: 0.0}, 9: {1: 0.5}, 10: {0: 0.9}},
    ],
)
def test_without_a_rise_there_is_no_transition(values):
    assert transition(values) is None


def test_a_middle_that_no_number_of_rules_reached_is_not_told():
    n = np.array([3, 12, 40, 90])
    for middle, known in ((60, True), (89, True), (108, False), (200, False)):
        means = dict(zip(n.tolist(), logistic(n, middle, 2, 1.0).tolist(), strict=True))
        found = transition({one: {0: mean, 1: mean} for one, mean in means.items()})
        assert (found is not None) == known
