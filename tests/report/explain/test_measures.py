import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.report.explain.measures import measure, resembling
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search.options import Search


def embeddings(train, test, columns=6, seed=0):
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(train, columns)).astype(np.float32),
        generator.normal(size=(test, columns)).astype(np.float32),
    )


def cosines(train, test):
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test)]
    return units[0].astype(np.float64) @ units[1].astype(np.float64).T


@settings(max_examples=8)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_measures_are_those_of_the_whole_matrix(n, tests, k, seed):
    train, test = embeddings(45, tests, seed=seed)
    order = np.random.default_rng(seed).permutation(45)[:n].astype(np.int64)
    found = measure(order, train, test, k)
    table = cosines(train, test)[order]
    np.testing.assert_allclose(found.mean, table.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.best, table.max(axis=1), atol=1e-6)
    assert found.nearest.tolist() == table.argmax(axis=1).tolist()
    for j in range(tests):
        told = sorted(range(n), key=lambda place: -table[place, j])[:k]
        assert found.positions[j].tolist() == told
        np.testing.assert_allclose(found.cosines[j], table[told, j], atol=1e-6)


def test_blocks_change_nothing_and_equal_rows_are_listed_by_their_number():
    train, test = embeddings(1500, 7)
    train[700:] = train[700]
    order = np.random.default_rng(1).permutation(1500)[:1300].astype(np.int64)
    told = []
    search = Search(None, 256, lambda more, of: told.append((more, of)))
    parts = measure(order, train, test, 3, search=search)
    for one, other in zip(measure(order, train, test, 3), parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(more for more, _ in told) == 1300
    same = measure(order, np.ones_like(train), np.ones_like(test), 3, search=search.quiet)
    assert order[same.positions].tolist() == [sorted(order)[:3]] * 7
    assert not same.nearest.any()


def test_a_bad_row_past_the_first_block_is_named_by_its_own_number():
    train, test = embeddings(900, 2)
    train[777, 2] = np.nan
    with pytest.raises(UserError, match="train: row 777 holds a NaN"):
        measure(np.arange(100, 900), train, test, 1, search=Search(block_size=256))


@settings(max_examples=10)
@given(
    st.integers(120, 400),
    st.integers(12, 40),
    st.floats(0, 30),
    st.floats(0.01, 100),
    st.integers(0, 99),
)
def test_what_resembles_is_what_few_pairs_reach_with_any_encoder(n, tests, common, scale, seed):
    train, test = embeddings(n, tests, columns=8, seed=seed)
    # Many encoders put all texts into a narrow cone, where every cosine is high.
    train, test = (scale * (x + np.float32(common)) for x in (train, test))
    least = resembling(train, test)
    assert least == resembling(train, test)
    reached = (cosines(train, test) >= least.cosine).mean()
    assert least.below == pytest.approx(1 - reached, abs=0.01)
    assert 0.002 < reached < 0.02
    # A copy does, whatever the cone.
    train[0] = test[0]
    assert cosines(train, test)[0, 0] >= resembling(train, test).cosine


def test_of_few_pairs_the_share_below_is_what_it_is():
    cosine, below = resembling(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:1])
    assert cosine == pytest.approx(1, abs=1e-5)
    assert below == pytest.approx(2 / 3, abs=0.03)  # of three pairs
