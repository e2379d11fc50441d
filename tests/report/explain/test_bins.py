import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from zsg_jax.report.curves import even_places
from zsg_jax.report.explain import bins

SIZES = st.integers(1, 60)
LIMITS = st.integers(1, 25)


def slices(edges):
    return [range(a, b) for a, b in zip(edges.tolist(), edges.tolist()[1:], strict=False)]


@given(SIZES, LIMITS)
def test_bins_hold_every_position_once_and_differ_by_one_at_most(n, limit):
    found = slices(bins.bin_edges(n, limit))
    assert [place for one in found for place in one] == list(range(n))
    sizes = [len(one) for one in found]
    assert len(sizes) == min(n, limit)
    assert max(sizes) - min(sizes) <= 1


@given(SIZES, LIMITS, st.integers(0, 99))
def test_means_and_percentiles_are_those_of_each_stretch(n, limit, seed):
    values = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    edges = bins.bin_edges(n, limit)
    means = [sum(float(values[i]) for i in one) / len(one) for one in slices(edges)]
    np.testing.assert_allclose(bins.bin_means(values, edges), means, rtol=1e-12, atol=1e-12)
    found = bins.bin_percentiles(values, edges, (10, 90))
    assert found.shape == (2, len(edges) - 1)
    for line, at in zip(found, (0.1, 0.9), strict=True):
        told = [
            stats.mstats.mquantiles(values[list(one)].astype(float), at, 1, 1)
            for one in slices(edges)
        ]
        np.testing.assert_allclose(line, np.ravel(told), atol=1e-12)


def test_a_mean_does_not_lose_digits_in_float32():
    values = np.full(3_000_000, 0.1, np.float32)
    assert bins.bin_means(values, bins.bin_edges(len(values), 1))[0] == pytest.approx(
        float(np.float32(0.1)), abs=1e-12
    )


@given(SIZES, LIMITS, st.integers(1, 7), st.integers(0, 99))
def test_shares_are_counts_of_each_stretch(n, limit, groups, seed):
    codes = np.random.default_rng(seed).integers(0, groups, n)
    edges = bins.bin_edges(n, limit)
    found = bins.bin_shares(codes, groups, edges)
    told = [
        [sum(codes[i] == group for i in one) / len(one) for one in slices(edges)]
        for group in range(groups)
    ]
    np.testing.assert_allclose(found, told, atol=1e-15)


@given(SIZES, st.integers(1, 7), st.integers(0, 99))
def test_a_tally_is_that_of_each_group(n, groups, seed):
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, groups, n)
    positions = np.sort(generator.integers(0, 1000, n))  # repeats are allowed
    values = generator.normal(size=n)
    found = bins.tally(codes, groups, positions, values)
    for group in range(groups):
        of = [i for i in range(n) if codes[i] == group]
        assert found.rows[group] == len(of)
        if of:
            assert found.mean[group] == pytest.approx(sum(values[i] for i in of) / len(of))
            assert found.median[group] == np.median([positions[i] + 1 for i in of])
        else:
            assert found.mean[group] == found.median[group] == 0


@given(SIZES, st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_groups_are_named_by_their_largest_share_of_a_tenth(n, groups, limit, seed):
    codes = np.random.default_rng(seed).integers(0, groups, n)
    rank = []
    for group in set(codes.tolist()):
        shares = [
            np.mean([codes[i] == group for i in one]) for one in slices(bins.bin_edges(n, 10))
        ]
        rank.append((-max(shares), -sum(codes == group), group))
    told = [group for _, _, group in sorted(rank)][:limit]
    assert bins.leading_groups(codes, groups, limit).tolist() == told


@given(SIZES, st.integers(2, 25))
def test_places_are_even_and_hold_both_ends(n, count):
    places = even_places(n, count)
    assert len(places) == min(n, count)
    assert places[0] == 0
    assert places[-1] == n - 1
    steps = np.diff(places)
    assert not len(steps) or (steps.min() >= 1 and steps.max() - steps.min() <= 1)
