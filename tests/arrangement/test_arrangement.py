import numpy as np
import pytest

from zsg_jax.arrangement import Arrangement
from zsg_jax.runtime.errors import UserError


def test_it_keeps_its_own_read_only_arrays():
    order = np.array([4, 0, 7])
    arrangement = Arrangement(order, np.array([1, 1, 3], np.int64))
    order[0] = 9
    assert arrangement.order.tolist() == [4, 0, 7]
    assert (arrangement.order.dtype, arrangement.turn.dtype) == (np.int64, np.int32)
    assert (len(arrangement), arrangement.turn_sizes.tolist()) == (3, [2, 0, 1])
    with pytest.raises(ValueError, match="read-only"):
        arrangement.order[0] = 1


def test_an_empty_arrangement():
    arrangement = Arrangement(np.array([]), np.array([]))
    assert (len(arrangement), arrangement.turn_sizes.tolist()) == (0, [])
    assert (arrangement.order.dtype, arrangement.turn.dtype) == (np.int64, np.int32)


@pytest.mark.parametrize(
    ("order", "turn", "message"),
    [
        ([1, 2], [1], "2 rows in order and 1 in turn"),
        ([3, 1, 3], [1, 1, 1], r"rows \[3\] come twice"),
        ([-1, 1], [1, 1], "row -1 in order is negative"),
        ([0, 1], [0, 1], "turn 0 is below 1"),
        ([0], [2**31], "does not fit int32"),
        ([0.5], [1], "order is .* float64"),
        ([[0]], [[1]], r"order is \(1, 1\)"),
    ],
)
def test_what_is_no_arrangement_is_refused(order, turn, message):
    with pytest.raises(UserError, match=message):
        Arrangement(np.array(order), np.array(turn))
