"""What is asked of cuDNN, computed in its place, and on a card what it answers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models import attention
from zsg_jax.models.attention import cudnn


@pytest.fixture
def hopper(monkeypatch):
    """Lowers as if a Hopper with cuDNN 9.10 were here."""
    pretend(monkeypatch, "9.0", 91000)


def pretend(monkeypatch, capability, version):
    least = tuple(map(int, capability.split(".")))
    monkeypatch.setattr(
        cudnn.fused,
        "check_compute_capability",
        lambda asked: least >= tuple(map(int, asked.split("."))),
    )
    monkeypatch.setattr(cudnn.fused, "is_cuda_compute_capability_equal", lambda asked: False)
    monkeypatch.setattr(cudnn.fused, "check_cudnn_version", lambda: version)
    monkeypatch.setattr(cudnn.fused, "cuda_versions", object())


def test_what_the_kernel_cannot_goes_another_way(monkeypatch):
    choose = partial(attention.choose, "gpu", head_dim=64, length=256, dtype=jnp.bfloat16)
    monkeypatch.setattr(cudnn.fused, "cuda_versions", None)
    assert choose() == ("xla", "cuDNN is not installed")
    pretend(monkeypatch, "8.0", 91000)
    assert choose() == ("cudnn", "cuDNN's flash attention fits")
    assert choose(dtype=jnp.float16)[0] == "cudnn"
    for what, why in (
        ({"dtype": jnp.float32}, "not float32"),
        ({"head_dim": 136}, "128 numbers, not 136"),
        ({"head_dim": 60}, "128 numbers, not 60"),
        ({"length": 255}, "even length, not 255"),
    ):
        kind, told = choose(**what)
        assert kind == "xla"
        assert told.endswith(why)
    pretend(monkeypatch, "7.5", 91000)
    assert choose() == ("xla", "cuDNN's kernel needs a card of Ampere or later")
    pretend(monkeypatch, "9.0", 91000)
    assert choose(head_dim=256)[0] == "cudnn"
    assert choose(head_dim=264)[0] == "xla"


PLAIN = jax.nn.dot_product_attention


def with_a_mask(q, k, v, *, mask, is_causal, implementation):
    """Stands for the kernel with a mask."""
    assert implementation == "cudnn"
    # Its scores of what is hidden are low and finite: a query that sees nothing sees all.
    assert mask.any(axis=-1).all()
    return PLAIN(q, k, v, mask=mask, is_causal=is_causal, implementation="xla")


@pytest.mark.parametrize("window", [None, 1, 7])
def test_what_is_asked_means_segments_windows_and_padding(
    window, hopper, monkeypatch, naive, laid_out, arrays
):
    monkeypatch.setattr(jax.nn, "dot_product_attention", with_a_mask)
    segments = laid_out([[10, 6, 8], [1, 2, 11], [17], [], [24]], 24)
    q, k, v, out_gradient = arrays(0, 5, 24, 2, 3, 8)
    with jax.default_matmul_precision("float32"):
        attend = partial(cudnn.attend, segment_ids_BxL=segments, window=window)
        out, backward = jax.vjp(lambda q, k, v: attend(q, k, v), q, k, v)
        found = out, *backward(jnp.asarray(out_gradient))
    for ours, plain in zip(found, naive(q, k, v, segments, window, out_gradient), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5)
        assert not np.asarray(ours)[segments == 0].any()


@pytest.fixture(scope="module")
def card():
    """Skips where no card computes by cuDNN."""
    if jax.default_backend() != "gpu":
        pytest.skip("no NVIDIA card is here to run cuDNN's kernel")
    kind, why = attention.choose("gpu", head_dim=64, length=256, dtype=jnp.bfloat16)
    if kind != "cudnn":
        pytest.skip(why)


def on_the_card(inputs, segments, window):
    """The output and the gradients of q, k and v."""
    q, k, v, out_gradient = (jnp.asarray(x, jnp.bfloat16) for x in inputs)

    @jax.jit
    def all_of(q, k, v, segments, out_gradient):
        attend = partial(cudnn.attend, segment_ids_BxL=segments, window=window)
        out, backward = jax.vjp(lambda q, k, v: attend(q, k, v), q, k, v)
        return out, *backward(out_gradient)

    return [np.asarray(x, np.float64) for x in all_of(q, k, v, segments, out_gradient)]


@pytest.mark.parametrize("window", [None, 1, 30])
def test_a_card_keeps_packed_instances_apart(card, window, naive, laid_out, arrays):
    rows = [[100, 60, 96], [1, 2, 150, 3], [17, 31], []]
    segments = laid_out(rows, 256)
    inputs = [
        np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64) for x in arrays(0, 4, 256, 2, 2, 64)
    ]
    together = on_the_card(inputs, segments, window)
    for found, plain in zip(together, naive(*inputs[:3], segments, window, inputs[3]), strict=True):
        np.testing.assert_allclose(found, plain, atol=0.06, rtol=0.03)
        assert not found[segments == 0].any()
    # Every instance in a row of its own.
    places = [(b, number) for b, row in enumerate(rows) for number in range(1, len(row) + 1)]
    alone = [np.zeros((len(places), *x.shape[1:])) for x in inputs]
    for row, (b, number) in enumerate(places):
        where = np.flatnonzero(segments[b] == number)
        for to, x in zip(alone, inputs, strict=True):
            to[row, : len(where)] = x[b, where]
    lengths = [[(segments[b] == number).sum()] for b, number in places]
    unpacked = on_the_card(alone, laid_out(lengths, 256), window)
    for row, (b, number) in enumerate(places):
        where = np.flatnonzero(segments[b] == number)
        for found, other in zip(together, unpacked, strict=True):
            np.testing.assert_allclose(
                found[b, where], other[row, : len(where)], atol=0.03, rtol=0.02
            )
