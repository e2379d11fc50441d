import numpy as np
import pytest

from zsg_jax.arrangement.rounds import round_robin
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.search.cosine import top_k


@pytest.mark.parametrize(("budget", "alike"), [(None, False), (4700, True), (7, True)])
def test_lists_that_run_dry_change_nothing(budget, alike):
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(5000, 6)), rng.normal(size=(3, 6))
    if alike:  # all want the same
        test = test[:1] + 1e-3 * test
    whole = top_k(train, test, len(train))[1]
    left, expected = [list(row) for row in whole], []
    gone = np.zeros(len(train), bool)
    while len(expected) < (budget or len(train)):
        mine = left[len(expected) % 3]
        while gone[mine[0]]:
            mine.pop(0)
        expected.append(mine[0])
        gone[mine[0]] = True
    found = round_robin(train, test, budget=budget)
    assert found.order.tolist() == expected
    assert found.turn.tolist() == [1 + i // 3 for i in range(len(expected))]


def test_nobody_to_choose():
    with pytest.raises(UserError, match="test set is empty"):
        round_robin(np.ones((3, 2)), np.empty((0, 2)))
