"""A packed step against the same instances one a row, for every family of models."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsg_jax.data.batches.packing import consumed, lay_packed, pack, sequence_counts
from zsg_jax.data.batches.pipeline import SequencesAtOnce, Steps
from zsg_jax.data.tokenize.encode import Examples
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


def examples(count, seed=0, longest=16):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, count)
    lengths[0] = 16
    # The first tokens carry loss too, which no row may let the one before predict.
    return Examples(
        [(rng.integers(0, 6, n).astype(np.int32), np.arange(n) % 3 != 1) for n in lengths]
    )


def large(params, seed=1):
    """Weights large enough for what a token sees to show in its loss."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: (x + rng.normal(size=x.shape) * 0.3).astype(np.float32), params)


def run(model, data, count, *, packing, micro=8):
    """Takes `count` steps of 8 in the order of `data`; gives metrics, parameters and the steps."""
    one = Trainer(
        model, OPTIONS._replace(micro_batch_size=micro, packing=packing), sharding.make_mesh(1, 1)
    )
    steps = Steps(
        data,
        np.arange(len(data)),
        batch_size=8,
        length=16,
        packing=SequencesAtOnce(1, micro) if packing else None,
    )
    take, state = one.compiled_step(count, 16, steps.shapes(count)), one.initial_state(0)
    rows = []
    for number in range(count):
        state, metrics = take(state, sharding.place_batch(steps[number], one.mesh))
        rows.append(jax.device_get(metrics))
    return rows, jax.device_get(state["params"]), steps


@pytest.mark.parametrize(
    ("family", "micro"),
    [
        pytest.param("llama", 8, marks=pytest.mark.slow),
        ("llama", 2),
        pytest.param("gpt2", 2, marks=pytest.mark.slow),
        pytest.param("gpt2", 8, marks=pytest.mark.slow),
    ],
)
def test_fifty_steps_packed_are_fifty_steps_unpacked(family, micro):
    data = examples(8 * 50, longest=8)
    plain, params, _ = run(MODELS[family], data, 50, packing=False)
    rows, packed, steps = run(MODELS[family], data, 50, packing=True, micro=micro)
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


def gradients(model, batch, micro):
    """Loss and gradients of one batch by the train step, read off a step of plain descent."""
    params = large(models.initialize(model, jax.random.key(0)))
    tx = optax.sgd(1.0)
    state, metrics = descent(model, len(batch["tokens"]) // micro)(
        step.initial_state(params, tx), {name: jnp.asarray(x) for name, x in batch.items()}
    )
    return metrics["loss"], jax.tree.map(lambda a, b: np.asarray(a - b), params, state["params"])


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_gradients_of_a_packed_step_are_those_of_each_instance_alone(family):
    model, data = MODELS[family], examples(8, seed=36, longest=9)
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
    for micro in (8, 2):
        steps = Steps(
            data, np.arange(8), batch_size=8, length=16, packing=SequencesAtOnce(1, micro)
        )
        rows = len(steps[0]["tokens"])
        assert steps.counts[0] < 8
        found, grads = gradients(model, steps[0], min(micro, rows))
        np.testing.assert_allclose(found, loss, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5), grads, total)
    assert max(np.abs(g).max() for g in jax.tree.leaves(total)) > 0.1


@pytest.mark.parametrize("family", MODELS)
def test_one_instance_changes_no_logits_of_another(family):
    model, data = MODELS[family], examples(6, seed=5, longest=6)
    rows = pack(data.lengths, 24)
    assert max(map(len, rows)) > 2
    batch = lay_packed(data, np.arange(6), rows, length=24, segments=6)
    graphdef, _ = models.abstract(model)
    params = large(models.initialize(model, jax.random.key(0)))
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


def test_compiles_are_counted_and_bounded(monkeypatch):
    compiled, real = [], trainer.compile_train_step

    def counting(state, batch, mesh, **fixed):
        compiled.append(batch["tokens"].shape)
        return real(state, batch, mesh, **fixed)

    monkeypatch.setattr(trainer, "compile_train_step", counting)
    data = examples(8 * 4, seed=2, longest=12)
    _, _, steps = run(MODELS["llama"], data, 4, packing=True)
    assert len(set(steps.counts)) > 1
    assert compiled == [(count, 16) for count in sorted(set(steps.counts))]
    assert set(steps.counts) <= set(sequence_counts(8, 1, 8))
    compiled.clear()
    # Rows in parts: one shape for all, whatever the number of rows.
    _, _, steps = run(MODELS["llama"], data, 4, packing=True, micro=2)
    assert len(set(steps.counts)) > 1
    assert compiled == [(8, 16)]


def test_where_no_two_instances_fit_one_row_packing_changes_no_bit():
    rng = np.random.default_rng(0)
    data = Examples([(rng.integers(0, 6, 9).astype(np.int32), np.arange(9) % 3 != 1)] * 32)
    plain, params, _ = run(MODELS["llama"], data, 4, packing=False)
    rows, packed, _ = run(MODELS["llama"], data, 4, packing=True)
    assert [float(row["loss"]) for row in plain] == [float(row["loss"]) for row in rows]
    jax.tree.map(np.testing.assert_array_equal, params, packed)
