from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models import attention


@pytest.mark.parametrize("length", [5, 9, 37])
def test_attention_in_blocks_is_attention(length, monkeypatch):
    # Blocks of 4 queries, but no more than 3 of them: 5 → 4 + 1, 9 → 4 + 4 + 1, 37 → 13 + 13 + 11.
    monkeypatch.setattr(attention, "QUERY_BLOCK", 4)
    monkeypatch.setattr(attention, "MOST_BLOCKS", 3)
    rng = np.random.default_rng(length)
    q = jnp.asarray(rng.normal(size=(2, length, 2, 3, 4)), jnp.float32)
    k, v, out = (jnp.asarray(rng.normal(size=(2, length, 2, 4)), jnp.float32) for _ in range(3))
    segments = np.sort(rng.integers(0, 4, (2, length)), axis=1)[:, ::-1]
    same = segments[:, :, None] == segments[:, None, :]
    mask = jnp.asarray(same & np.tri(length, dtype=bool) & (segments != 0)[:, None, :])

    def total(function, *arrays):
        return (function(*arrays, mask) * out[:, :, :, None]).sum()

    with jax.default_matmul_precision("float32"):
        np.testing.assert_allclose(
            attention.attend_causally(q, k, v, mask), attention.attend(q, k, v, mask), atol=2e-6
        )
        for ours, plain in zip(
            jax.grad(partial(total, attention.attend_causally), (0, 1, 2))(q, k, v),
            jax.grad(partial(total, attention.attend), (0, 1, 2))(q, k, v),
            strict=True,
        ):
            np.testing.assert_allclose(ours, plain, atol=2e-5)
