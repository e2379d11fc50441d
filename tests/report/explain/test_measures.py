import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.report.explain import measures
from zsg_jax.report.explain.measures import fetch, measure, nearest_test_rows
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search.options import Search


class OnDisk:
    """Rows that only slices and ascending numbers can take, and never all of them."""

    def __init__(self, rows, most=None):
        self.rows, self.most = rows, most or len(rows)
        self.shape, self.dtype, self.ndim = rows.shape, rows.dtype, rows.ndim

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, at):
        if not isinstance(at, slice):
            assert at.dtype == np.int64
            assert (np.diff(at) > 0).all()
        taken = self.rows[at]
        assert len(taken) <= self.most
        return taken


def embeddings(train, test, columns=6, seed=0):
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(train, columns)).astype(np.float32),
        generator.normal(size=(test, columns)).astype(np.float32),
    )


def cosines(train, test):
    table = np.empty((len(train), len(test)))
    for i, a in enumerate(train.astype(np.float64)):
        for j, b in enumerate(test.astype(np.float64)):
            table[i, j] = a @ b / np.sqrt((a @ a) * (b @ b))
    return table


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_measures_are_those_of_the_whole_matrix(n, tests, k, seed):
    train, test = embeddings(45, tests, seed=seed)
    order = np.random.default_rng(seed).permutation(45)[:n].astype(np.int64)
    found = measure(order, OnDisk(train), test, k)
    table = cosines(train, test)[order]
    np.testing.assert_allclose(found.mean, table.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.best, table.max(axis=1), atol=1e-6)
    for j in range(tests):
        told = sorted(range(n), key=lambda place: -table[place, j])[:k]
        assert found.positions[j].tolist() == told
        np.testing.assert_allclose(found.cosines[j], table[told, j], atol=1e-6)


def test_blocks_and_a_subset_change_nothing(monkeypatch):
    train, test = embeddings(1500, 7)
    order = np.random.default_rng(1).permutation(1500)[:1300].astype(np.int64)
    whole = measure(order, train, test, 3)
    monkeypatch.setattr(measures, "BLOCKS", 1)
    told = []
    parts = measure(
        order,
        OnDisk(train, most=256),
        test,
        3,
        search=Search(None, 256, lambda more, of: told.append((more, of))),
    )
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(more for more, _ in told) == 1300
    assert {of for _, of in told} == {1300}
    assert len(told) == 6


def test_equal_rows_are_listed_by_their_number(monkeypatch):
    train = np.ones((700, 3), np.float32)
    monkeypatch.setattr(measures, "BLOCKS", 1)
    order = np.arange(700)[::-1].astype(np.int64)
    found = measure(order, train, np.ones((2, 3), np.float32), 3, search=Search(block_size=256))
    assert order[found.positions].tolist() == [[0, 1, 2]] * 2


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 99))
def test_nearest_test_rows_are_those_of_the_whole_matrix(n, tests, seed):
    train, test = embeddings(30, tests, seed=seed)
    rows = np.random.default_rng(seed).permutation(30)[:n].astype(np.int64)
    nearest, cosine = nearest_test_rows(rows, OnDisk(train), test)
    table = cosines(train, test)[rows]
    assert nearest.tolist() == [max(range(tests), key=lambda j: one[j]) for one in table]
    np.testing.assert_allclose(cosine, table.max(axis=1), atol=1e-6)


def test_nearest_test_rows_hold_few_cosines_at_a_time(monkeypatch):
    train, test = embeddings(100, 8)
    rows = np.random.default_rng(0).permutation(100).astype(np.int64)
    whole, _ = nearest_test_rows(rows, train, test)
    monkeypatch.setattr(measures, "ENTRIES", 80)
    parts, _ = nearest_test_rows(rows, OnDisk(train, most=10), test)
    np.testing.assert_array_equal(whole, parts)


def test_a_bad_row_past_the_first_block_is_named_by_its_own_number(monkeypatch):
    train, test = embeddings(900, 2)
    train[777, 2] = np.nan
    monkeypatch.setattr(measures, "BLOCKS", 1)
    with pytest.raises(UserError, match="train: row 777 holds a NaN"):
        measure(np.arange(900), train, test, 1, search=Search(block_size=256))
    with pytest.raises(UserError, match="train: row 777 holds a NaN"):
        fetch(train, np.array([3, 777, 800]))
