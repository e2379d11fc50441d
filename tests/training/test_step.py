from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.model import abstract, apply
from zsg_jax.training import sharding
from zsg_jax.training.trainer import Trainer, TrainerOptions

MODEL = DecoderConfig(
    "llama",
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    max_positions=16,
    tie_embeddings=True,
)
OPTIONS = TrainerOptions(8, 8, 1e-2, "cosine", 0, 1.0, 0.0)


@cache
def trainer(**changes):
    """Made, and its step compiled, once for all tests."""
    return Trainer(MODEL, OPTIONS._replace(**changes), sharding.make_mesh(1, 1))


def batch(seed=0, empty=2):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 17, 8)
    lengths[8 - empty :] = 0
    place = np.arange(16)[None, :]
    real = place < lengths[:, None]
    return {
        "tokens": np.where(real, rng.integers(0, 40, (8, 16)), 0).astype(np.int32),
        "positions": np.broadcast_to(place, (8, 16)).astype(np.int32),
        "segment_ids": real.astype(np.int32),
        # Rows differ much in their number of answer tokens: a mean of means would show.
        "loss_mask": real & (place >= rng.integers(1, 16, (8, 1))),
        "index": np.where(lengths > 0, np.arange(8), -1).astype(np.int32),
    }


def take_steps(one, count=3):
    state, step, rows = one.initial_state(0), one.compiled_step(30, 16), []
    for seed in range(count):
        state, metrics = step(state, sharding.place_batch(batch(seed), one.mesh))
        rows.append(jax.device_get(metrics))
    return jax.device_get(state), rows


def test_the_loss_is_the_sum_over_answer_tokens_by_their_number():
    one = trainer()
    state, rows = one.initial_state(0), batch()
    params = jax.device_get(state["params"])
    graphdef, _ = abstract(MODEL)
    where = (jnp.asarray(rows[name]) for name in ("tokens", "positions", "segment_ids"))
    logits = jax.jit(apply, static_argnums=0)(graphdef, params, *where)
    logits = np.asarray(logits, np.float64)
    log_sum = np.log(np.exp(logits).sum(-1))
    total, count = 0.0, 0
    for row in range(8):
        for place in range(1, 16):
            if rows["loss_mask"][row, place]:
                token = rows["tokens"][row, place]
                total += log_sum[row, place - 1] - logits[row, place - 1, token]
                count += 1
    _, metrics = one.compiled_step(30, 16)(state, sharding.place_batch(rows, one.mesh))
    assert metrics["tokens"] == count
    np.testing.assert_allclose(metrics["loss"], total / count, rtol=1e-5)
    assert metrics["index"].tolist() == rows["index"].tolist()


@pytest.fixture(scope="module")
def whole():
    return take_steps(trainer())


def test_accumulation_changes_nothing_but_rounding(whole):
    whole_state, rows_whole = whole
    state, rows = take_steps(trainer(micro_batch_size=2))
    for a, b in zip(rows_whole, rows, strict=True):
        assert a["tokens"] == b["tokens"]
        assert a["index"].tolist() == b["index"].tolist()
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-5)
        np.testing.assert_allclose(a["grad_norm"], b["grad_norm"], rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4),
        whole_state["params"],
        state["params"],
    )


def test_the_step_learns_and_counts():
    state, rows = take_steps(trainer(), 1)
    assert state["step"] == 1
    np.testing.assert_allclose(rows[0]["learning_rate"], 1e-2, rtol=1e-6)
    one = trainer()
    step, state = one.compiled_step(30, 16), one.initial_state(0)
    losses = []
    for _ in range(30):
        state, metrics = step(state, sharding.place_batch(batch(), one.mesh))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.6 * losses[0]


def test_one_compile_serves_all_runs_and_another_shape_is_refused():
    one = trainer()
    assert one.compiled_step(30, 16) is one.compiled_step(30, 16)
    rows = sharding.place_batch({k: v[:4] for k, v in batch().items()}, one.mesh)
    with pytest.raises(TypeError, match="compiled with"):
        one.compiled_step(30, 16)(one.initial_state(0), rows)


def test_seeds_give_different_weights_and_the_same_seed_the_same():
    one = trainer()
    a, b, c = (jax.device_get(one.initial_state(seed)["params"]) for seed in (0, 0, 1))
    embedding = [tree["embed"]["embedding"] for tree in (a, b, c)]
    assert (embedding[0] == embedding[1]).all()
    assert (embedding[0] != embedding[2]).any()
