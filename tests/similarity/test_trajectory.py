import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.similarity.trajectory import trajectory


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 7), st.integers(1, 4), st.data())
def test_it_equals_starting_over_at_every_point(rows, batch_size, tests, every, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    train = rng.normal(size=(rows, 5)).astype(np.float32)
    test = rng.normal(size=(tests, 5)).astype(np.float32)
    order = rng.permutation(rows)[: rng.integers(1, rows + 1)]
    # Blocks of one or two steps, so that several blocks are joined.
    got = trajectory(
        train, test, order, batch_size=batch_size, every=every, block_rows=2 * batch_size
    )

    unit = [x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (train, test)]
    steps = -(-len(order) // batch_size)
    shown = [step for step in range(1, steps + 1) if step % every == 0 or step == steps]
    assert got.step.tolist() == shown
    for place, step in enumerate(shown):
        seen = unit[0][order[: step * batch_size]] @ unit[1].T
        np.testing.assert_allclose(got.mean_similarity[place], seen.mean(), atol=1e-6)
        np.testing.assert_allclose(got.best_similarity[place], seen.max(axis=0).mean(), atol=1e-6)
