"""Mean unit rows of groups of rows, such as tasks, summed as the rows pass by in any order."""

import numpy as np

from zsg_jax.runtime.errors import check
from zsg_jax.similarity.rows import HOST_ROWS, checked, unit_block
from zsg_jax.similarity.stored import Rows

# Numbers are added as multiples of 2^-38, by which sums are exact: they do not depend on the order
# of the rows, and 2^25 rows fit 64 bits. A number under 2^-15 may lose digits past 2^-38.
SCALE = float(1 << 38)
MOST = 1 << 25


class GroupSums:
    """Sums of unit rows by group."""

    def __init__(self, groups: np.ndarray, width: int) -> None:
        """Takes the group of every row, (N,) whole numbers from 0 without gaps."""
        self._groups, self._counts = groups, np.bincount(groups)
        largest = int(self._counts.max(initial=0))
        check(largest < MOST, f"a group of {largest:,} rows: fewer than {MOST:,} can be summed")
        self.sums = np.zeros((len(self._counts), width), np.int64)

    def add(self, unit_RxD: np.ndarray, numbers: np.ndarray | slice) -> None:
        """Takes unit rows, each once; `numbers` says which rows they are."""
        groups = self._groups[numbers]
        if not len(groups):
            return
        order = np.argsort(groups, kind="stable")
        groups = groups[order]
        first = np.flatnonzero(np.diff(groups, prepend=-1))
        # Exact but for the rounding: float32 in float64, times a power of two.
        whole = np.rint(unit_RxD[order].astype(np.float64) * SCALE).astype(np.int64)
        self.sums[groups[first]] += np.add.reduceat(whole, first, axis=0)

    def means(self) -> np.ndarray:
        """(groups, D) float64, not of unit length."""
        return self.sums / SCALE / self._counts[:, None]


def group_means(rows: Rows, groups: np.ndarray, what: str = "rows") -> np.ndarray:
    """Mean of the unit rows of each group.

    Args:
        rows: (N, D) floats, any length of row.
        groups: (N,) int64, each row's group, numbered from 0 without gaps.
        what: the array's name in error messages.

    Returns:
        (groups, D) float64, not of unit length.

    Raises:
        UserError: lengths that differ, a NaN or an infinity, wrong rank or dtype.
    """
    rows = checked(rows, what)
    check(groups.shape == (len(rows),), f"{what}: {len(rows)} rows, but groups are {groups.shape}")
    sums = GroupSums(groups, rows.shape[1])
    for start in range(0, len(rows), HOST_ROWS):
        here = slice(start, min(start + HOST_ROWS, len(rows)))
        sums.add(unit_block(rows[here], what, range(start, len(rows))), here)
    return sums.means()
