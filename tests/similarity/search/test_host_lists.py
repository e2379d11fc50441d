import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.similarity.search.host_lists import NOTHING, HostLists, decoded, encoded, merged

VALUES = np.array([-1.5, -1, -1e-40, -0.0, 0.0, 1e-40, 1, np.inf, -np.inf], np.float32)


@pytest.mark.parametrize("farthest", [False, True])
@settings(max_examples=200, deadline=None)
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
    found, positions = decoded(keys[:, : order.shape[1]], farthest)
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_array_equal(found, np.take_along_axis(values, order, axis=1))
    assert (keys[:, order.shape[1] :] == NOTHING).all()


@pytest.mark.parametrize("farthest", [False, True])
def test_keys_rise_as_cosines_get_worse_and_then_with_the_row(farthest):
    positions = np.array([0, 7, 2**31 - 1])
    keys = encoded(VALUES[:, None], positions, farthest)
    back, rows = decoded(keys, farthest)
    np.testing.assert_array_equal(back, np.broadcast_to(VALUES[:, None], keys.shape))
    np.testing.assert_array_equal(rows, np.broadcast_to(positions, keys.shape))
    assert not np.signbit(back[VALUES == 0]).any()
    flat = np.argsort(keys.reshape(-1))
    pairs = [(float(v) if farthest else -float(v), int(p)) for v in VALUES for p in positions]
    assert [pairs[i] for i in flat] == sorted(pairs)


def test_several_devices_lists_become_one():
    a = np.array([[1, 5, NOTHING], [2, 3, 4]])
    b = np.array([[0, 6, 7], [NOTHING] * 3])
    np.testing.assert_array_equal(merged([a, b], 3), [[0, 1, 5], [2, 3, 4]])
    np.testing.assert_array_equal(merged([a], 3), a)
