import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search import stream
from zsg_jax.similarity.search.cosine import scan
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.search.stream import GroupSums


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)


@settings(max_examples=30)
@given(n=st.integers(1, 60), many=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
def test_the_order_and_the_parts_in_which_rows_come_change_no_bit(n, many, seed):
    generator = np.random.default_rng(seed)
    rows = unit(generator.normal(size=(n, 5)) * 10.0 ** generator.integers(-6, 6, 5)).astype("f4")
    numbers = np.unique(generator.integers(0, many, n), return_inverse=True)[1]
    straight, mixed = GroupSums(numbers, 5), GroupSums(numbers, 5)
    straight.add(rows, slice(0, n))
    order = generator.permutation(n)
    for part in np.array_split(order, 4):
        mixed.add(rows[part], part)
    np.testing.assert_array_equal(straight.means(), mixed.means())
    exact = [rows[numbers == g].astype(np.float64).mean(0) for g in range(numbers.max() + 1)]
    np.testing.assert_allclose(straight.means(), exact, rtol=0, atol=2.0**-38)


@settings(max_examples=12)
@given(
    n=st.sampled_from([1, 300, 700]),
    nearest=st.sampled_from([0, 3, 900]),
    farthest=st.sampled_from([0, 5]),
    statistics=st.booleans(),
    block_size=st.sampled_from([256, 8192]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_pass_for_whatever_gives_the_means_too(
    n, nearest, farthest, statistics, block_size, seed
):
    generator = np.random.default_rng(seed)
    train, test = generator.normal(size=(n, 6)), generator.normal(size=(3, 6))
    numbers = np.unique(generator.integers(0, 4, n), return_inverse=True)[1]
    found = scan(
        train,
        test,
        nearest=nearest,
        farthest=farthest,
        statistics=statistics,
        groups=numbers,
        search=Search(block_size=block_size),
    )
    expected = [unit(train[numbers == group]).mean(0) for group in range(numbers.max() + 1)]
    np.testing.assert_allclose(found.means, expected, atol=1e-7)


def test_what_cannot_be_summed_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"3 training examples, but groups are \(2,\)"):
        scan(np.eye(3), np.eye(3), groups=np.zeros(2, int))
    with pytest.raises(UserError, match="means are those of all"):
        scan(np.eye(3), np.eye(3), groups=np.zeros(3, int), excluded=np.zeros(3, bool))
    monkeypatch.setattr(stream, "MOST", 3)
    with pytest.raises(UserError, match="a group of 3:"):
        scan(np.eye(3), np.eye(3), groups=np.zeros(3, int))


def test_products_are_made_in_the_highest_precision():
    arrays = (jnp.zeros((stream.TILE, 16)), jnp.zeros((128, 16)))
    assert "HIGHEST" in str(jax.make_jaxpr(stream.product)(*arrays))
