"""Gradients of many examples at once against `jax.grad` of one after the other, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from zsg_jax.models.gradients import example_gradients, flat, select
from zsg_jax.models.lora import LoRA
from zsg_jax.models.model import apply
from zsg_jax.runtime.errors import UserError

LENGTHS = np.array([7, 12, 1, 0, 7])
TOKENS = np.random.default_rng(0).integers(0, 37, (5, 12)).astype(np.int32)
# Of the third, of a single token, and of the fourth, nothing is learned; of the first all.
LEARNED = np.array([range(12)]) >= np.array([[1], [8], [1], [0], [5]])
LEARNED &= np.arange(12) < LENGTHS[:, None]


def one_by_one(graphdef, chosen, others):
    """Each example alone, without padding, its loss as the definition has it."""

    def loss(chosen, tokens, learned):
        params = unflatten_dict(others | chosen, sep="/")
        where = (jnp.arange(len(tokens))[None], jnp.ones((1, len(tokens)), jnp.int32))
        chances = jax.nn.log_softmax(apply(graphdef, params, tokens[None], *where)[0])
        nats = -chances[jnp.arange(len(tokens) - 1), tokens[1:]]
        return jnp.sum(nats * learned[1:]) / learned[1:].sum()

    grad, found = jax.jit(jax.grad(loss)), []  # compiled for two lengths
    for tokens, learned, length in zip(TOKENS, LEARNED, LENGTHS, strict=True):
        if learned.any():
            found.append(grad(chosen, tokens[:length], learned[:length].astype(np.float32)))
        else:
            found.append(jax.tree.map(jnp.zeros_like, chosen))
    return found


@pytest.mark.parametrize(
    ("family", "lora", "pattern"),
    [
        ("llama", LoRA(3, 5.0), ""),
        ("llama", LoRA(2, 8.0, ("q", "down")), "*/q/lora_b"),
        ("llama", None, ""),
        ("gpt2", None, "layers/*/kernel"),
        ("gpt2", LoRA(2), ""),
        ("gemma2", None, "*norm/scale"),
        ("qwen3_moe", None, "layers/mlp/*"),
    ],
)
def test_each_is_that_of_the_example_alone(tiny, family, lora, pattern):
    model, graphdef, params = tiny(family, lora=lora)
    chosen, others = select(params, pattern, adapted=lora is not None, told="m")
    found = jax.jit(example_gradients(model, lora))(chosen, others, TOKENS, LENGTHS, LEARNED)
    for number, expected in enumerate(one_by_one(graphdef, chosen, others)):
        assert set(found) == set(expected)
        for name, leaf in expected.items():
            size = max(1.0, float(jnp.linalg.norm(leaf)))
            np.testing.assert_allclose(found[name][number], leaf, atol=3e-5 * size, err_msg=name)
    rows = np.asarray(flat(found))
    assert rows.shape == (5, sum(leaf.size for leaf in chosen.values()))
    assert (rows[2:4] == 0).all()
    assert (np.abs(rows[[0, 1, 4]]).max(axis=1) > 1e-3).all()


def test_adapters_alone_are_chosen_where_there_are_any_or_the_layers_kernels(tiny):
    _, _, params = tiny("llama", lora=LoRA(2, targets=("q",)))
    chosen, others = select(params, "", adapted=True, told="m")
    assert set(chosen) == {"layers/attention/q/lora_a", "layers/attention/q/lora_b"}
    assert set(chosen | others) == set(flatten_dict(params, sep="/"))
    _, _, params = tiny("llama")
    chosen, others = select(params, "", adapted=False, told="m")
    assert {name.split("/")[0] for name in chosen} == {"layers"}
    assert {name.split("/")[-1] for name in chosen} == {"kernel"}
    assert len(chosen) == 7
    assert "embed/embedding" in others
    with pytest.raises(UserError, match=r"m: weights=\*/lora_a is the name of no parameter"):
        select(params, "*/lora_a", adapted=False, told="m")
