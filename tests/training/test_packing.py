"""A packed step against the same instances one a row, for every family of models."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsg_jax.data.batches.packing import consumed, lay_packed, pack
from zsg_jax.data.batches.steps import SequencesAtOnce, Steps
from zsg_jax.data.tokenize.examples import Examples
from zsg_jax.models import model as models
from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.gpt2 import Gpt2Config
from zsg_jax.training import sharding, step, trainer
from zsg_jax.training.trainer import Trainer, TrainerOptions

MODELS = {
    "llama": DecoderConfig(
        "llama",
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        max_positions=16,
        tie_embeddings=True,
    ),
    "gpt2": Gpt2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_layers=2,
        num_heads=2,
        max_positions=16,
    ),
}
OPTIONS = TrainerOptions(8, 8, 1e-2, "cosine", 0, 1.0, 0.0)


def examples(count, lengths, seed=0):
    rng = np.random.default_rng(seed)
    lengths = [16, *rng.choice(lengths, count - 1)]
    # The first tokens carry loss too, which no row may let the one before predict.
    return Examples(
        [(rng.integers(0, 6, n).astype(np.int32), np.arange(n) % 3 != 1) for n in lengths]
    )


@cache
def compiled(family, packing, micro, shapes):
    """The trainer of a run of 30 steps, and its step, compiled once for all tests."""
    options = OPTIONS._replace(micro_batch_size=micro, packing=packing)
    one = Trainer(MODELS[family], options, sharding.make_mesh(1, 1))
    return one, one.compiled_step(30, 16, shapes)


def run(family, data, *, packing, micro):
    """Takes a step of 8 after the other in the order of `data`.

    Returns:
        The metrics of each, the parameters, and the steps.
    """
    steps = Steps(
        data,
        np.arange(len(data)),
        batch_size=8,
        length=16,
        packing=SequencesAtOnce(1, micro) if packing else None,
    )
    one, take = compiled(family, packing, micro, tuple(steps.shapes(len(steps))))
    state, rows = one.initial_state(0), []
    for number in range(len(steps)):
        state, metrics = take(state, sharding.place_batch(steps[number], one.mesh))
        rows.append(jax.device_get(metrics))
    return rows, jax.device_get(state["params"]), steps


@pytest.mark.parametrize(
    ("family", "micro"),
    [
        ("llama", 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("llama", 8), ("gpt2", 2)]),
    ],
)
def test_thirty_steps_packed_are_thirty_steps_unpacked(family, micro):
    data = examples(8 * 30, range(2, 9))
    plain, params, _ = run(family, data, packing=False, micro=micro)
    rows, packed, steps = run(family, data, packing=True, micro=micro)
    for number, (a, b) in enumerate(zip(plain, rows, strict=True)):
        assert consumed(a) == consumed(b) == list(range(8 * number, 8 * number + 8))
        assert a["tokens"] == b["tokens"]
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=2e-4)
        np.testing.assert_allclose(a["grad_norm"], b["grad_norm"], rtol=5e-3)
        real = data.lengths[8 * number : 8 * number + 8].sum()
        np.testing.assert_allclose(b["fill"], real / (16 * steps.counts[number]), rtol=1e-5)
        np.testing.assert_allclose(a["fill"], real / (16 * 8), rtol=1e-5)
    assert plain[-1]["loss"] < plain[0]["loss"] - 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-2), params, packed)
    assert steps.counts.mean() < 5
    assert rows[1]["fill"] > 1.3 * plain[1]["fill"]


def test_a_step_is_compiled_once_for_each_number_of_sequences(monkeypatch):
    met = []
    monkeypatch.setattr(
        trainer, "compile_train_step", lambda state, batch, *_, **__: met.append(batch)
    )
    data = examples(8 * 4, range(2, 13), seed=2)
    for micro in (8, 2):
        packing, count = SequencesAtOnce(1, micro), len(met)
        steps = Steps(data, np.arange(32), batch_size=8, length=16, packing=packing)
        assert len(set(steps.counts)) > 1
        options = OPTIONS._replace(micro_batch_size=micro, packing=True)
        one = Trainer(MODELS["llama"], options, sharding.make_mesh(1, 1))
        one.compiled_step(4, 16, steps.shapes(4))
        # Sequences in parts: one shape for all, whatever their number.
        wanted = sorted(set(steps.counts)) if micro == 8 else [8]
        assert [batch["tokens"].shape for batch in met[count:]] == [(n, 16) for n in wanted]


@cache
def descent(model, micro_batches):
    """The train step with plain descent, compiled once for each shape."""
    graphdef, _ = models.abstract(model)
    return jax.jit(
        partial(
            step.train_step,
            hidden=partial(models.hidden, graphdef),
            vocab_size=model.vocab_size,
            optimizer=optax.sgd(1.0),
            learning_rate=lambda count: 1.0,
            micro_batches=micro_batches,
        )
    )


@cache
def weights(model):
    """Weights large enough for what a token sees to show in its loss."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: (rng.normal(size=x.shape) * 0.3 + (x.ndim < 3)).astype(np.float32),
        models.abstract(model)[1],
    )


def gradients(model, batch, micro):
    """Loss and gradients of one batch by the train step, read off a step of plain descent."""
    params = weights(model)
    tx = optax.sgd(1.0)
    state, metrics = descent(model, len(batch["tokens"]) // micro)(
        step.initial_state(params, tx), {name: jnp.asarray(x) for name, x in batch.items()}
    )
    return metrics["loss"], jax.tree.map(lambda a, b: np.asarray(a - b), params, state["params"])


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_gradients_of_a_packed_step_are_those_of_each_instance_alone(family):
    model, data = MODELS[family], examples(8, (5,))
    count = sum(data[row][1][1:].sum() for row in range(8))
    # The reference: every instance in a row of its own length, alone, summed in float64.
    loss, total = 0.0, None
    for row in range(8):
        tokens, mask = (x[None] for x in data[row])
        alone = {
            "tokens": tokens,
            "positions": np.arange(tokens.shape[1], dtype=np.int32)[None],
            "segment_ids": np.ones_like(tokens),
            "loss_mask": mask,
            "index": np.asarray([row]),
        }
        share = mask[0, 1:].sum() / count
        mine, grads = gradients(model, alone, 1)
        loss += float(mine) * share
        part = jax.tree.map(lambda g, share=share: g.astype(np.float64) * share, grads)
        total = part if total is None else jax.tree.map(np.add, total, part)
    # In parts, the thirty steps above are taken.
    steps = Steps(data, np.arange(8), batch_size=8, length=16, packing=SequencesAtOnce(1, 8))
    assert steps.counts[0] < 8
    found, grads = gradients(model, steps[0], len(steps[0]["tokens"]))
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), grads, total)
    assert max(np.abs(g).max() for g in jax.tree.leaves(total)) > 0.1


@pytest.mark.parametrize("family", MODELS)
def test_one_instance_changes_no_logits_of_another(family):
    model, data = MODELS[family], examples(6, range(2, 7), seed=5)
    rows = pack(data.lengths, 24)
    assert max(map(len, rows)) > 2
    batch = lay_packed(data, np.arange(6), rows, length=24, segments=6)
    graphdef, _ = models.abstract(model)
    params = weights(model)
    apply = jax.jit(
        lambda tokens: models.apply(
            graphdef, params, tokens, batch["positions"], batch["segment_ids"]
        )
    )
    before = np.asarray(apply(batch["tokens"]))
    for row, places in enumerate(rows):
        for segment in range(1, len(places) + 1):
            mine = np.zeros_like(batch["tokens"], bool)
            mine[row] = batch["segment_ids"][row] == segment
            after = np.asarray(apply(np.where(mine, (batch["tokens"] + 7) % 40, batch["tokens"])))
            assert (after[~mine] == before[~mine]).all()
            assert (np.abs(after[mine] - before[mine]).max(axis=-1) > 1e-3).all()
            # Nor does the end of an instance change its beginning.
            last = mine.copy()
            last[row, np.flatnonzero(mine[row])[:-1]] = False
            after = np.asarray(apply(np.where(last, (batch["tokens"] + 7) % 40, batch["tokens"])))
            assert (after[~last] == before[~last]).all()
