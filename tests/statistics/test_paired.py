import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from zsg_jax.runtime.errors import UserError
from zsg_jax.statistics.paired import holm, mcnemar, paired_differences


def test_the_interval_is_the_one_of_the_normal_distribution():
    rng = np.random.default_rng(1)
    base = rng.normal(0, 5, size=(1, 2000))  # what both have in common says nothing
    gap = rng.normal(0.3, 1.0, size=(1, 2000))
    [found] = paired_differences({"a": base + gap, "b": base})
    error = stats.sem(gap[0])
    assert found.mean == pytest.approx(gap.mean())
    assert found.low == pytest.approx(gap.mean() - 1.96 * error, abs=0.01 * error)
    assert found.high == pytest.approx(gap.mean() + 1.96 * error, abs=0.01 * error)
    assert found.detectable == pytest.approx(2.80 * error, rel=0.01)


def test_without_a_difference_p_is_even():
    rng = np.random.default_rng(2)
    found = [
        paired_differences(dict(zip("ab", rng.normal(size=(2, 1, 60)), strict=True)))
        for _ in range(300)
    ]
    assert stats.kstest([one.p for [one] in found], "uniform").pvalue > 1e-3
    assert np.mean([one.low <= 0 <= one.high for [one] in found]) == pytest.approx(0.95, abs=0.04)


def test_what_is_detectable_is_detected_in_four_cases_of_five():
    rng = np.random.default_rng(8)
    error = 1 / math.sqrt(50)
    detectable = np.mean([difference(rng.normal(size=(1, 50))).detectable for _ in range(200)])
    assert detectable == pytest.approx(2.86 * error, rel=0.03)  # 2.80 of many examples
    told = [difference(rng.normal(detectable, 1, size=(1, 50))).p < 0.05 for _ in range(1000)]
    assert np.mean(told) == pytest.approx(0.8, abs=0.05)


def test_few_seeds_and_alike_examples_widen_the_interval():
    rng = np.random.default_rng(3)
    tasks = np.repeat(np.arange(10), 40)
    by_task = rng.normal(0, 1, size=10)[tasks][None] + rng.normal(0, 0.1, size=(1, 400))

    def width(gap, **kwargs):
        return np.ptp(difference(gap, **kwargs)[3:5])

    assert width(by_task, clusters=tasks) > 3 * width(by_task)
    by_seed = rng.normal(0, 1, size=(3, 1)) + rng.normal(0, 0.1, size=(3, 400))
    assert width(by_seed) > 10 * width(by_seed.mean(axis=0, keepdims=True))


def difference(gap, **kwargs):
    [found] = paired_differences({"a": gap, "b": np.zeros_like(gap)}, **kwargs)
    return found


@pytest.mark.parametrize("by", ["seeds", "examples"])
def test_noise_of_one_kind_alone_is_student_s_t(by):
    rng = np.random.default_rng(5)
    one = rng.normal(0.5, 1, size=6)
    gap = np.repeat(one[:, None], 40, axis=1) if by == "seeds" else np.repeat(one[None], 4, axis=0)
    found, known = difference(gap), stats.ttest_1samp(one, 0)
    assert found.p == found.p_holm == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval(0.95)))


@pytest.mark.parametrize("count", [2, 3, 5, 6, 20])
def test_few_that_all_differ_alike_are_as_likely_as_the_sign_test_says(count):
    right = np.full((1, count), 100 / 3)
    found = difference(right)
    assert found.p == pytest.approx(mcnemar(right, 0 * right))
    assert found.p == pytest.approx(stats.binomtest(count, count).pvalue)
    assert difference(right.T).p == pytest.approx(found.p)


def test_both_kinds_of_noise_together_are_covered():
    rng = np.random.default_rng(6)
    inside = []
    for _ in range(400):
        noise = rng.normal(0, 0.2, size=(3, 1)) + rng.normal(0, 1, size=(1, 50))
        inside.append(difference(0.7 + noise + rng.normal(0, 0.5, size=(3, 50))))
    covered = np.mean([one.low <= 0.7 <= one.high for one in inside])
    assert 0.93 <= covered <= 0.995


def test_only_the_pairs_that_are_asked_for_are_corrected_for():
    rng = np.random.default_rng(7)
    values = {name: rng.normal(size=(3, 30)) for name in "abc"}
    found = paired_differences(values, [("a", "c"), ("b", "c")])
    assert [(one.first, one.second, one.seeds) for one in found] == [("a", "c", 3), ("b", "c", 3)]
    assert [one.p_holm for one in found] == holm([one.p for one in found])
    same = paired_differences({"a": values["a"], "b": values["a"]}, [("a", "b")])[0]
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(UserError, match="same seeds and examples"):
        paired_differences({"a": np.zeros((2, 3)), "b": np.zeros((3, 2))}, [("a", "b")])


def test_every_pair_is_compared_and_either_way_round():
    rng = np.random.default_rng(4)
    values = {name: rng.normal(size=(2, 30)) for name in "abc"}
    found = {(one.first, one.second): one for one in paired_differences(values)}
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    [other_way] = paired_differences({name: values[name] for name in "ba"})
    ends = (-found["a", "b"].high, -found["a", "b"].low)
    assert (other_way.low, other_way.high) == pytest.approx(ends)
    assert other_way.p == pytest.approx(found["a", "b"].p)
    with pytest.raises(UserError, match="one seed and one example"):
        paired_differences({"a": [[1.0]], "b": [[2.0]]})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_rule_step_by_step(p):
    ranks = sorted(range(len(p)), key=lambda i: p[i])
    expected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(ranks):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        expected[i] = largest
    assert holm(p) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_counts_only_what_they_do_not_share(pairs):
    wins = sum(a and not b for a, b in pairs)
    losses = sum(b and not a for a, b in pairs)
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
    first, second = np.array(pairs, float).reshape(-1, 2).T
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(100 * second, 100 * first) == pytest.approx(min(1.0, 2 * tail))


@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 2**32))
def test_examples_that_are_as_often_right_are_no_win_of_either(seeds, samples, seed):
    """Whatever the shares of right samples are, in per cent, seed by seed."""
    rng = np.random.default_rng(seed)
    right = rng.integers(0, 2, (20, seeds * samples))
    other = rng.permuted(right, axis=1)  # as many are right
    shares = [one.reshape(20, seeds, samples).mean(axis=2).T * 100 for one in (right, other)]
    assert mcnemar(*shares) == 1


def test_an_example_is_one_trial_over_all_seeds():
    one = np.array([[1, 1, 0, 0, 1, 1.0]])
    other = np.zeros((1, 6))
    alone = mcnemar(one, other)
    assert alone == pytest.approx(2 / 2**4)
    assert mcnemar(np.repeat(one, 3, axis=0), np.repeat(other, 3, axis=0)) == alone
    assert mcnemar([[1, 0], [0, 1]], [[0, 1], [1, 0]]) == 1  # each once right, once wrong
