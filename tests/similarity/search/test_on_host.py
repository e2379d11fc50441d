import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.similarity.search import on_host
from zsg_jax.similarity.search.on_host import HostLists, sorted_lists


@pytest.mark.parametrize("farthest", [False, True])
@settings(max_examples=40)
@given(
    tests=st.integers(1, 5),
    k=st.integers(1, 40),
    room=st.integers(1, 9),
    rows=st.integers(0, 200),
    levels=st.sampled_from([1, 3, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_lists_are_a_stable_sort_of_all_that_was_added(
    farthest, tests, k, room, rows, levels, seed
):
    generator = np.random.default_rng(seed)
    values = (generator.integers(-levels, levels + 1, (tests, rows)) / levels).astype(np.float32)
    lists = HostLists(tests, k, room, farthest=farthest)
    start = 0
    while start < rows:
        width = min(rows - start, int(generator.integers(1, room + 1)))
        lists.add(values[:, start : start + width], start)
        start += width
    keys = lists.best()
    assert keys.shape == (tests, k)
    order = np.argsort(values if farthest else -values, axis=1, kind="stable")[:, :k]
    found, positions = on_host._decoded(keys[:, : order.shape[1]], farthest)
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_array_equal(found, np.take_along_axis(values, order, axis=1))
    assert (keys[:, order.shape[1] :] == on_host.NOTHING).all()


@settings(max_examples=30)
@given(
    n=st.integers(0, 60),
    t=st.integers(0, 9),
    farthest=st.booleans(),
    at_once=st.sampled_from([1, 100, 1 << 18]),
    seed=st.integers(0, 2**32 - 1),
)
def test_lists_are_a_stable_sort_of_each_column(n, t, farthest, at_once, seed):
    generator = np.random.default_rng(seed)
    pool = np.float32([0, 1, -1, 0.5, -0.5, 1e-30, -1e-30, 1e-45, -1e-45, 0.75, -0.75])
    matrix = pool[generator.integers(0, len(pool), (n, t))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_host, "SORTED_AT_ONCE", at_once)
        values, rows = sorted_lists(matrix, farthest)
    assert (values.dtype, values.shape, rows.shape) == (np.float32, (t, n), (t, n))
    for j in range(t):
        column = matrix[:, j].tolist()
        expected = sorted(range(n), key=lambda i: column[i] if farthest else -column[i])
        assert rows[j].tolist() == expected
        assert values[j].tolist() == [column[i] for i in expected]
    assert not np.signbit(values[values == 0]).any()
