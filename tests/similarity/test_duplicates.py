"""Duplicates against the rule in plain Python, and the same whatever the blocks and devices."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.duplicates import duplicates
from zsg_jax.similarity.search.cosine import cosine_matrix
from zsg_jax.similarity.search.options import Search


def crowd(seed, rows):
    """Rows around a few centres, so that near ones and copies are many; some are zero."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(6, 12))
    centres[0] = 0
    spread = generator.choice([0, 0.05, 0.3], size=(rows, 1))
    picked = centres[generator.integers(6, size=rows)]
    return (picked + spread * generator.normal(size=(rows, 12))).astype(np.float32)


def naive(pool, threshold):
    """Each row is compared with those that stay; of the nearest, the first is told."""
    cosines = cosine_matrix(pool, pool)
    stay, found = [], []
    for row in range(len(pool)):
        near = max(stay, key=lambda one: (cosines[one, row], -one), default=None)
        if near is not None and cosines[near, row] >= np.float32(threshold):
            found.append((row, near, cosines[near, row]))
        else:
            stay.append(row)
    return found


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.sampled_from([0.3, 0.95, 0.999, 1.0]),
    st.sampled_from([1, 7, 16, 100]),
    st.sampled_from([3, 64]),
)
def test_duplicates_are_those_of_a_loop(seed, rows, threshold, queries, block):
    pool = crowd(seed, rows)
    found = duplicates(pool, threshold, queries=queries, search=Search(block_size=block))
    assert list(zip(*(one.tolist() for one in found), strict=True)) == naive(pool, threshold)
    assert (found.kept < found.rows).all()
    left = np.delete(pool, found.rows, axis=0)
    assert len(duplicates(left, threshold).rows) == 0


def test_the_first_of_equals_stays_and_empty_rows_all_do():
    pool = np.array([[0, 0], [1, 0], [0, 0], [2, 0], [0, 1], [3, 0]], np.float32)
    found = duplicates(pool, 1.0)
    assert (found.rows.tolist(), found.kept.tolist()) == ([3, 5], [1, 1])
    assert found.cosines.tolist() == [1, 1]


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_a_threshold_that_is_no_share_is_refused(threshold):
    with pytest.raises(UserError, match="above 0, at most 1"):
        duplicates(np.ones((2, 2)), threshold)


ON_DEVICES = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh
from zsg_jax.similarity.duplicates import duplicates
from zsg_jax.similarity.search.options import Search
pool = np.load(sys.argv[1])
search = Search(Mesh(np.array(jax.devices()), ("rows",)), 32)
print(json.dumps([one.tolist() for one in duplicates(pool, 0.9, search=search, queries=50)]))
"""


def test_several_devices_find_the_same(tmp_path, on_devices):
    np.save(tmp_path / "pool.npy", crowd(3, 170))
    one, two = (on_devices(count, ON_DEVICES, tmp_path / "pool.npy")[0] for count in (1, 2))
    assert one == two
    assert json.loads(json.dumps(one[0])) == [row for row, *_ in naive(crowd(3, 170), 0.9)]
