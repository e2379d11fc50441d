import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.similarity.search import sorting
from zsg_jax.similarity.search.sorting import sorted_lists


@settings(max_examples=60, deadline=None)
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
        patch.setattr(sorting, "SORTED_AT_ONCE", at_once)
        values, rows = sorted_lists(matrix, farthest)
    assert (values.dtype, values.shape, rows.shape) == (np.float32, (t, n), (t, n))
    for j in range(t):
        column = matrix[:, j].tolist()
        expected = sorted(range(n), key=lambda i: column[i] if farthest else -column[i])
        assert rows[j].tolist() == expected
        assert values[j].tolist() == [column[i] for i in expected]
    assert not np.signbit(values[values == 0]).any()
