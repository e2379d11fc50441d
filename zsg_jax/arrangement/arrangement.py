"""The order in which training rows are met, and the turn that each of them belongs to."""

from dataclasses import dataclass

import numpy as np

from zsg_jax.runtime.errors import check


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Some or all training rows in an order; both arrays are read-only copies.

    Attributes:
        order: (n,) int64, row indices from 0, none twice; the row to meet first comes first.
        turn: (n,) int32, from 1: the turn in which the row was chosen. It stays with its row when
            the order changes, so it need not ascend.

    Raises:
        UserError: lengths that differ, a row twice or negative, a turn below 1, wrong dtypes.
    """

    order: np.ndarray
    turn: np.ndarray

    def __post_init__(self) -> None:
        order, turn = _integers(self.order, "order"), _integers(self.turn, "turn")
        check(
            order.shape == turn.shape,
            f"arrangement: {len(order)} rows in order and {len(turn)} in turn; they must agree",
        )
        if len(order):
            check(order.min() >= 0, f"arrangement: row {order.min()} in order is negative")
            check(turn.min() >= 1, f"arrangement: turn {turn.min()} is below 1, the first turn")
            check(turn.max() < 2**31, f"arrangement: turn {turn.max()} does not fit int32")
            ascending = np.sort(order)
            twice = ascending[1:][ascending[1:] == ascending[:-1]]
            check(len(twice) == 0, f"arrangement: rows {twice[:3]} come twice or more in order")
        for name, values, dtype in (("order", order, np.int64), ("turn", turn, np.int32)):
            values = values.astype(dtype)
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def turn_sizes(self) -> np.ndarray:
        """(turns,) int64: how many rows turn 1, 2, … has; 0 for a turn of which none is here."""
        return np.bincount(self.turn, minlength=1)[1:]


def _integers(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values)
    whole = np.issubdtype(values.dtype, np.integer) or values.size == 0
    check(
        values.ndim == 1 and whole,
        f"arrangement: {name} is {values.shape} {values.dtype}; it must be (n,) of integers",
    )
    return values
