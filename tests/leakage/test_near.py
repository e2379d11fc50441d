import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.leakage import near
from zsg_jax.leakage.near import near_pairs
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search.cosine import row_statistics
from zsg_jax.similarity.search.options import Search


def crowd(generator, rows, kinds=6):
    """Rows around a few centres, so that near ones and copies are many; some are zero."""
    centres = np.random.default_rng(7).normal(size=(kinds, 12))
    centres[0] = 0
    spread = generator.choice([0, 0.05, 0.3], size=(rows, 1))
    picked = centres[generator.integers(kinds, size=rows)]
    return (picked + spread * generator.normal(size=(rows, 12))).astype(np.float32)


def as_dict(blocks):
    found = {}
    last = (-1, -1)
    for block in blocks:
        assert (block.kind, block.measure.dtype) == ("near", np.float32)
        for i, j, cosine in zip(*(column.tolist() for column in block[1:]), strict=True):
            assert (i, j) > last
            found[i, j] = cosine
            last = (i, j)
    return found


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.integers(0, 12),
    st.sampled_from([0.3, 0.95, 0.999]),
    st.booleans(),
)
def test_pairs_are_those_of_a_loop_in_float64(seed, n, t, threshold, known):
    generator = np.random.default_rng(seed)
    train, test = crowd(generator, n), crowd(generator, t)
    largest = row_statistics(train, test).maximum if known and t else None
    found = as_dict(near_pairs(train, test, threshold=threshold, largest=largest))
    for i in range(n):
        for j in range(t):
            a, b = train[i].astype(np.float64), test[j].astype(np.float64)
            lengths = np.sqrt(a @ a) * np.sqrt(b @ b)
            cosine = a @ b / lengths if lengths else 0.0
            if abs(cosine - threshold) > 1e-6:
                assert ((i, j) in found) == (cosine > threshold)
            if (i, j) in found:
                assert found[i, j] == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize("threshold", [0.6, 0.5, 0.96, 1.0])
def test_a_cosine_at_the_threshold_counts_and_the_next_below_does_not(threshold):
    least = np.float32(threshold)
    # Other columns are zero, so the cosine with the first axis is the first entry itself.
    entries = [least, np.nextafter(least, np.float32(0)), np.nextafter(least, np.float32(2))]
    train = np.zeros((3, 3))
    train[:, 0] = np.minimum(entries, 1)
    train[:, 1] = np.sqrt(1 - np.square(train[:, 0]))
    found = as_dict(near_pairs(train, np.eye(3)[:1], threshold=threshold))
    assert set(found) == {(0, 0), (2, 0)}
    assert found[0, 0] == least


@pytest.mark.parametrize("n", [5, 700])
def test_blocks_change_nothing_and_bound_what_is_held(n, monkeypatch):
    generator = np.random.default_rng(n)
    train, test = crowd(generator, n, 3), crowd(generator, 9, 3)
    whole = as_dict(near_pairs(train, test, threshold=0.9))
    assert len(whole) > n
    monkeypatch.setattr(near, "CELLS", 9 * 100)
    monkeypatch.setattr(near, "PAIRS", 9 * 7)
    blocks = list(near_pairs(train, test, threshold=0.9, search=Search(None, 256)))
    assert as_dict(blocks) == whole
    assert max(len(block.train) for block in blocks) <= 9 * 7


def test_cosines_of_other_examples_are_refused():
    with pytest.raises(UserError, match=r"\(3,\)"):
        list(near_pairs(np.eye(2), np.eye(2), largest=np.zeros(3, np.float32)))
