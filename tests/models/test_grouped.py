"""Rows through a few of many layers, beside a plain loop over rows in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.models import grouped

WIDTH, INNER = 6, 5


def layer(params, x):
    return jnp.tanh(x @ params["up"] + params["bias"]) @ params["down"]


def drawn(seed, rows, layers, taken):
    rng = np.random.default_rng(seed)
    params = {
        "up": rng.normal(size=(layers, WIDTH, INNER)),
        "bias": rng.normal(size=(layers, INNER)),
        "down": rng.normal(size=(layers, INNER, WIDTH)),
    }
    # Some layers are taken by most rows, and some by none.
    liked = rng.permuted(np.tile(np.arange(layers), (rows, 1)), axis=1)
    liked = np.where(rng.random((rows, 1)) < 0.5, np.sort(liked, axis=1), liked)
    shares = rng.random((rows, taken))
    return params, rng.normal(size=(rows, WIDTH)), liked[:, :taken], shares


def naive(params, x, index, shares):
    """The sums and, of their product with x, the gradients: row by row, float64."""
    of_params = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    out, of_x, of_shares = np.zeros_like(x), np.zeros_like(x), np.zeros_like(shares)
    for n, k in np.ndindex(index.shape):
        e, share = index[n, k], shares[n, k]
        inner = np.tanh(x[n] @ params["up"][e] + params["bias"][e])
        y = inner @ params["down"][e]
        out[n] += share * y
        of_shares[n, k] = y @ x[n]
        of_y = share * x[n]
        of_inner = (params["down"][e] @ of_y) * (1 - inner**2)
        of_params["down"][e] += np.outer(inner, of_y)
        of_params["up"][e] += np.outer(x[n], of_inner)
        of_params["bias"][e] += of_inner
        of_x[n] += params["up"][e] @ of_inner
    return out, of_params, of_x, of_shares


@jax.jit
@partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
def sums_and_gradients(params, x, shares, index):
    out = grouped.mixture(layer, params, x, index, shares)
    return (out * jax.lax.stop_gradient(x)).sum(), out


@settings(max_examples=6)
@given(
    st.integers(0, 99),
    # Every shape is compiled.
    st.sampled_from([(1, 1, 1), (9, 4, 2), (60, 7, 1), (200, 5, 3)]),
)
def test_sums_and_gradients_are_those_of_a_loop_over_rows(seed, shape):
    params, x, index, shares = drawn(seed, *shape)
    expected = naive(params, x, index, shares)
    given_ = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x, shares))
    (_, out), found = sums_and_gradients(*given_, jnp.asarray(index, jnp.int32))
    for one, other in zip(jax.tree.leaves((out, *found)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [3, 50, 700])
def test_a_row_is_the_same_whatever_its_company(rows):
    params, x, index, shares = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.int32 if leaf.dtype == int else jnp.float32),
        drawn(0, rows, 5, 2),
    )
    all_rows = grouped.mixture(layer, params, x, index, shares)
    few = grouped.mixture(layer, params, x[:2], index[:2], shares[:2])
    np.testing.assert_allclose(all_rows[:2], few, rtol=1e-6, atol=1e-6)


def test_no_more_is_computed_than_twice_the_rows_that_layers_take_and_a_block_each():
    for rows, layers, taken in ((4096, 128, 8), (64, 4, 2), (7, 32, 4)):
        index = jnp.zeros((rows, taken), jnp.int32)
        slots = grouped.lay_out(index, layers).choice_M.shape[0]
        assert slots <= 2 * max(rows * taken, grouped.SMALLEST * layers) + rows * taken
