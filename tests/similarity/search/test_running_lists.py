import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsg_jax.similarity.search import running_lists
from zsg_jax.similarity.search.cosine import cosine_matrix, scan
from zsg_jax.similarity.search.options import Search


def rows_of_tasks(rows, columns, generator, *, repeats, sorted_by_task):
    """Rows about a few centres, some of them the same rows over and over."""
    task = generator.integers(0, 9, rows)
    task = np.sort(task) if sorted_by_task else task
    noise = 0.0 if repeats else 0.3
    centres = generator.normal(size=(9, columns))
    return (centres[task] + noise * generator.normal(size=(rows, columns))).astype(np.float32)


@pytest.mark.parametrize("waiting", [16, 48, 1024])
@settings(max_examples=12, deadline=None)
@given(
    n=st.sampled_from([1500, 2600, 3000]),
    k=st.integers(1, 64),
    farthest=st.booleans(),
    repeats=st.booleans(),
    sorted_by_task=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_lists_are_right_however_little_may_wait(
    waiting, n, k, farthest, repeats, sorted_by_task, seed
):
    generator = np.random.default_rng(seed)
    train = rows_of_tasks(n, 12, generator, repeats=repeats, sorted_by_task=sorted_by_task)
    test = generator.normal(size=(7, 12)).astype(np.float32)
    matrix = cosine_matrix(train, test)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_lists, "WAITING", waiting)
        which = "farthest" if farthest else "nearest"
        found = scan(train, test, **{which: k}, search=Search(block_size=1024), on_host=False)
    values, indices = getattr(found, which)
    for j in range(len(test)):
        expected = np.argsort(matrix[:, j] if farthest else -matrix[:, j], kind="stable")[:k]
        np.testing.assert_array_equal(indices[j], expected)
        np.testing.assert_array_equal(values[j], matrix[expected, j])
