"""Pooling where there is nothing to pool."""

import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.similarity.encoders.pooling import pool


@pytest.mark.parametrize("mode", ["lasttoken", "mean", "weightedmean"])
@pytest.mark.parametrize("counted", [None, jnp.array([[False] * 4, [True, True, False, False]])])
def test_a_text_without_a_token_has_zeros(mode, counted):
    hidden = jnp.ones((2, 4, 3))
    pooled = pool((mode,), hidden, jnp.array([0, 2]), counted)
    np.testing.assert_array_equal(pooled, [[0, 0, 0], [1, 1, 1]])
