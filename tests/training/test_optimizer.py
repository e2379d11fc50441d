import jax.numpy as jnp
import numpy as np
import pytest

from zsg_jax.runtime.errors import UserError
from zsg_jax.training.optimizer import adamw, schedule


def test_cosine_falls_from_the_peak_to_a_tenth():
    rate = schedule("cosine", 2e-3, 100)
    steps = np.arange(101)
    expected = 2e-3 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * steps / 100)))
    np.testing.assert_allclose([rate(step) for step in steps], expected, rtol=1e-5)


def test_warm_up_reaches_the_peak_and_never_wastes_a_step():
    rate = schedule("cosine", 1.0, 100, warmup_steps=4)
    np.testing.assert_allclose([rate(step) for step in range(5)], [0.25, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(rate(100), 0.1, rtol=1e-5)
    assert schedule("constant", 0.5, 10)(9) == 0.5


@pytest.mark.parametrize(
    ("name", "warmup", "message"),
    [
        ("linear", 0, "choose one of"),
        ("cosine", 10, "under the 10 steps"),
        ("cosine", -1, "at least"),
    ],
)
def test_settings_that_make_no_schedule_are_refused(name, warmup, message):
    with pytest.raises(UserError, match=message):
        schedule(name, 1.0, 10, warmup)


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_updates_equal_adamw_written_out(clip, decay):
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(4, 3))
    params = {"w": jnp.asarray(weights, jnp.float32)}
    tx = adamw(schedule("constant", 1e-2, 9), clip_norm=clip, weight_decay=decay)
    state, mean, square = tx.init(params), 0.0, 0.0
    for step in range(1, 6):
        grad = rng.normal(size=(4, 3))
        updates, state = tx.update({"w": jnp.asarray(grad, jnp.float32)}, state, params)
        params = {"w": params["w"] + updates["w"]}
        norm = np.sqrt((grad**2).sum())
        if clip and norm > clip:
            grad = grad * clip / norm
        mean, square = 0.9 * mean + 0.1 * grad, 0.95 * square + 0.05 * grad**2
        step_size = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.95**step)) + 1e-5)
        weights = weights - 1e-2 * (step_size + decay * weights)
    np.testing.assert_allclose(params["w"], weights, rtol=2e-5)
