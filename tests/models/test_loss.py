from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.models import loss
from zsg_jax.models.head import Head


def reference(x, head, tokens, vocab):
    """Losses of tokens 1 to L-1 and their sum's gradients, float64, token by token."""
    x, head = np.asarray(x, np.float64), np.asarray(head, np.float64)
    B, L, _ = x.shape
    losses, of_x, of_head = np.zeros((B, L - 1)), np.zeros_like(x), np.zeros_like(head)
    for b in range(B):
        for place in range(L - 1):
            scores = x[b, place] @ head[:, :vocab]
            chances = np.exp(scores - scores.max())
            chances /= chances.sum()
            token = tokens[b, place + 1]
            losses[b, place] = -np.log(chances[token])
            error = chances.copy()
            error[token] -= 1
            of_x[b, place] = head[:, :vocab] @ error
            of_head[:, :vocab] += np.outer(x[b, place], error)
    return losses, of_x, of_head


def draw(seed, vocab, padding, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(2, 5, 6)), dtype)
    head = jnp.asarray(rng.normal(size=(6, vocab + padding)), jnp.float32)
    return x, head, jnp.asarray(rng.integers(0, vocab, (2, 5)), jnp.int32)


def losses_of(x, head, tokens, vocab, parts):
    return loss.token_losses(x, Head(head), tokens, vocab, parts=parts)[:, :-1]


@partial(jax.jit, static_argnums=(3, 4))
def with_gradients(x, head, tokens, vocab, parts):
    """Losses, their sum's gradient by what is multiplied, and by the head."""
    losses, pull = jax.vjp(lambda *both: losses_of(*both, tokens, vocab, parts), x, head)
    return losses, *pull(jnp.ones_like(losses))


# Few shapes, for each is compiled: words, rows of padding and parts, which need not divide.
@pytest.mark.parametrize(("vocab", "padding", "parts"), [(2, 0, 3), (23, 2, 7), (9, 3, 1)])
@settings(max_examples=5)
@given(seed=st.integers(0, 99))
def test_losses_and_gradients_are_those_written_down_whatever_the_parts(
    vocab, padding, parts, seed
):
    x, head, tokens = draw(seed, vocab, padding)
    expected, of_x, of_head = reference(x, head, tokens, vocab)
    found, *grads = with_gradients(x, head, tokens, vocab, parts)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(grads[0], of_x, atol=2e-5)
    np.testing.assert_allclose(grads[1], of_head, atol=5e-5)
    assert (grads[1][:, vocab:] == 0).all()


def test_large_scores_do_not_overflow():
    x, head, tokens = draw(0, 23, 2)
    found = with_gradients(100 * x, 10 * head, tokens, 23, 7)
    assert all(np.isfinite(leaf).all() for leaf in found)


def test_bfloat16_operands_give_float32_losses_and_a_head_of_its_own_dtype():
    x, head, tokens = draw(1, 20, 0, jnp.bfloat16)
    expected, of_x, of_head = reference(x, head.astype(jnp.bfloat16), tokens, 20)
    losses, *grads = with_gradients(x, head, tokens, 20, 3)
    assert losses.dtype == jnp.float32
    # Operands are rounded, sums are not.
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)
    assert (grads[0].dtype, grads[1].dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(grads[0].astype(np.float32), of_x, atol=0.03)
    np.testing.assert_allclose(grads[1], of_head, atol=0.03)


def test_logits_of_a_large_vocabulary_never_sit_whole_in_memory():
    vocab, tokens = 3 * loss.WHOLE, 64
    shapes = (
        jax.ShapeDtypeStruct((1, tokens, 8), jnp.float32),
        jax.ShapeDtypeStruct((8, vocab), jnp.float32),
        jax.ShapeDtypeStruct((1, tokens), jnp.int32),
    )
    step = jax.jit(jax.value_and_grad(lambda *a: losses_of(*a, vocab, None).sum(), (0, 1)))
    memory = step.lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert memory < 0.75 * 4 * tokens * vocab
