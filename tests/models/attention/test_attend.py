"""Plain XLA and the TPU kernel, interpreted, against attention written query by query."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zsg_jax.models import attention
from zsg_jax.models.attention import splash, xla

KINDS = {"xla": xla.attend, "splash": partial(splash.attend, interpret=True)}
# Two blocks of the kernel, the last one filled up, and two blocks of queries of the plain path.
LENGTH = 136
WINDOWS = (None, 30)

few = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
layouts = st.lists(st.lists(st.integers(1, 90), max_size=6), min_size=2, max_size=2)


@pytest.fixture(autouse=True, scope="module")
def _small_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splash, "MOST_IN_BLOCK", 128)
        yield


@cache
def computed(kind, window):
    """Compiled: the output and the gradients of q, k and v."""

    def all_of(q, k, v, segments, out_gradient):
        with jax.default_matmul_precision("float32"):
            attend = partial(KINDS[kind], segment_ids_BxL=segments, window=window)
            out, backward = jax.vjp(lambda q, k, v: attend(q, k, v), q, k, v)
            return out, *backward(out_gradient)

    return jax.jit(all_of)


@pytest.mark.parametrize("kind", KINDS)
@given(
    rows=layouts,
    window=st.sampled_from(WINDOWS),
    seed=st.integers(0, 99),
)
@few
def test_values_and_gradients_are_those_of_every_query_alone(
    kind, rows, window, seed, naive, laid_out, arrays
):
    segments = laid_out(rows, LENGTH)
    q, k, v, out_gradient = arrays(seed, 2, LENGTH, 2, 2, 8)
    found = computed(kind, window)(q, k, v, segments, out_gradient)
    for ours, plain in zip(found, naive(q, k, v, segments, window, out_gradient), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5)
        assert not np.asarray(ours)[segments == 0].any()


@pytest.mark.parametrize("kind", KINDS)
@given(rows=layouts, window=st.sampled_from(WINDOWS), query=st.integers(0, LENGTH - 1))
@few
def test_the_gradient_of_one_query_reaches_the_keys_it_sees_and_no_other(
    kind, rows, window, query, visible, laid_out, arrays
):
    segments = laid_out(rows, LENGTH)
    q, k, v, out_gradient = arrays(0, 2, LENGTH, 2, 2, 8)
    out_gradient[:, np.arange(LENGTH) != query] = 0
    _, dq, dk, dv = computed(kind, window)(q, k, v, segments, out_gradient)
    for b in range(2):
        seen = visible(segments[b], query, window)
        assert np.flatnonzero(np.abs(dv[b]).sum((1, 2))).tolist() == seen
        assert set(np.flatnonzero(np.abs(dk[b]).sum((1, 2)))) <= set(seen)
        assert set(np.flatnonzero(np.abs(dq[b]).sum((1, 2, 3)))) <= {query}


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_keeps_its_precision(kind, naive, laid_out, arrays):
    segments = laid_out([[90, 30], [20, 116]], LENGTH)
    inputs = [jnp.asarray(x, jnp.bfloat16) for x in arrays(1, 2, LENGTH, 2, 2, 16)]
    found = computed(kind, None)(*inputs[:3], segments, inputs[3])
    for ours, plain in zip(found, naive(*inputs[:3], segments, None, inputs[3]), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(ours, np.float64), plain, atol=0.06, rtol=0.03)


@pytest.mark.parametrize(("length", "window"), [(5, 3), (9, None), (37, 3)])
def test_blocks_of_queries_change_nothing(length, window, monkeypatch, naive, laid_out, arrays):
    # Blocks of 4 queries, but no more than 3 of them: 5 → 4 + 1, 9 → 4 + 4 + 1, 37 → 13 + 13 + 11.
    monkeypatch.setattr(xla, "QUERY_BLOCK", 4)
    monkeypatch.setattr(xla, "MOST_BLOCKS", 3)
    segments = laid_out([[2, 2], [length - 3, 1]], length)
    q, k, v, out_gradient = arrays(length, 2, length, 2, 3, 4)
    # Compiled anew: the cache does not know of the blocks.
    found = computed.__wrapped__("xla", window)(q, k, v, segments, out_gradient)
    for ours, plain in zip(found, naive(q, k, v, segments, window, out_gradient), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-6 * length)


def test_splash_is_chosen_where_it_fits():
    choose = partial(attention.choose, head_dim=64, length=256, dtype=jnp.bfloat16)
    assert choose("tpu") == ("splash", "JAX's TPU kernel fits")
    assert choose("tpu", length=127)[0] == "xla"
    assert "127 positions" in choose("tpu", length=127)[1]
    assert "not float16" in choose("tpu", dtype=jnp.float16)[1]
    assert choose("cpu") == ("xla", "there is no kernel for cpu")


@pytest.mark.parametrize(
    ("length", "block"), [(128, 128), (384, 384), (512, 512), (640, 128), (768, 384), (2048, 512)]
)
def test_blocks_divide_the_row(length, block, monkeypatch):
    monkeypatch.setattr(splash, "MOST_IN_BLOCK", 512)
    assert splash.block_size(length) == block
