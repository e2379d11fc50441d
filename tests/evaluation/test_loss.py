import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.data.tokenize.examples import Examples
from zsg_jax.evaluation.loss import LossEvaluator
from zsg_jax.models.head import Head
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding

VOCAB = 11


def hidden(params, tokens, positions, segment_ids):
    """A bigram table for a model, so that the loss can be written down by hand."""
    return params["norm"]["scale"][tokens], Head(jnp.eye(VOCAB))


def examples(lengths, rng):
    return Examples(
        [
            (rng.integers(0, VOCAB, n).astype(np.int32), np.arange(n) >= rng.integers(1, n))
            for n in lengths
        ]
    )


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 50])
def test_every_instance_is_counted_once_whatever_the_batch(batch_size, packing):
    rng = np.random.default_rng(0)
    rows = examples(rng.integers(2, 30, 7), rng)
    tasks = ["b", "a", "b", "b", "c", "a", "b"]
    table = rng.normal(size=(VOCAB, VOCAB)).astype(np.float32)
    params = {"norm": {"scale": jnp.asarray(table)}}
    mesh = sharding.make_mesh(1, 1)
    where = sharding.shardings(params, mesh)["norm"]["scale"]
    abstract = {"norm": {"scale": jax.ShapeDtypeStruct(table.shape, table.dtype, sharding=where)}}
    evaluate = LossEvaluator(
        rows,
        [f"id{i}" for i in range(7)],
        tasks,
        hidden=hidden,
        vocab_size=VOCAB,
        abstract_params=abstract,
        mesh=mesh,
        batch_size=batch_size,
        max_length=40,
        dropped=3,
        packing=packing,
    )
    result = evaluate(params, 5)

    log_probs = table - np.log(np.exp(table.astype(np.float64)).sum(-1, keepdims=True))
    expected = []
    for row in range(7):
        tokens, mask = rows[row]
        nats = [
            -log_probs[tokens[place - 1], tokens[place]]
            for place in range(1, len(tokens))
            if mask[place]
        ]
        expected.append(np.mean(nats))
    np.testing.assert_allclose(result["losses"], expected, rtol=1e-5)
    np.testing.assert_allclose(result["loss"], np.mean(expected), rtol=1e-5)
    assert list(result["loss_by_task"]) == ["b", "a", "c"]
    for task, loss in result["loss_by_task"].items():
        mine = [value for value, name in zip(expected, tasks, strict=True) if name == task]
        np.testing.assert_allclose(loss, np.mean(mine), rtol=1e-5)
    assert (result["instances"], result["dropped"]) == (7, 3)
    with pytest.raises(UserError, match=r"test loss is nan at step 9, by 7 of 7 .* as id0, id1"):
        evaluate(jax.tree.map(lambda leaf: leaf * np.nan, params), 9)
