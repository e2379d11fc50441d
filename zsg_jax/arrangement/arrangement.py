"""The order in which examples are trained on, each one's turn, and both as files."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import load_npy, npy_bytes, write_bytes

ARRAYS: dict[str, np.dtype] = {"order": np.dtype("<i8"), "turn": np.dtype("<i4")}
AGAIN = "delete the folder to make the arrangement again"


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Some or all training examples in an order; both arrays are read-only copies.

    Attributes:
        order: (n,) int64, indices of examples from 0, none twice; the first is trained on first.
        turn: (n,) int32, from 1: the turn in which the example was chosen. It stays with its
            example when the order changes, so it need not ascend.

    Raises:
        UserError: lengths that differ, an index twice or negative, a turn below 1, wrong dtypes.
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
        """(turns,) int64: examples of turn 1, 2, …; 0 where none of a turn is here."""
        return np.bincount(self.turn, minlength=1)[1:]


def save_arrangement(arrangement: Arrangement, folder: Path, provenance: dict[str, Any]) -> None:
    """Writes `order.npy`, `turn.npy` and, last, `arrangement.json`, each atomically.

    The JSON file holds `provenance` (how the order was made; JSON values only), `rows`, `turns`,
    `turn_sizes`, and `order_sha256` and `turn_sha256` of the arrays as little-endian bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = arrangement.turn_sizes.tolist()
    facts: dict[str, Any] = {
        "provenance": provenance,
        "rows": len(arrangement),
        "turns": len(sizes),
        "turn_sizes": sizes,
    }
    for name, dtype in ARRAYS.items():
        values = np.ascontiguousarray(getattr(arrangement, name), dtype)
        facts[f"{name}_sha256"] = hashlib.sha256(values.tobytes()).hexdigest()
        write_bytes(folder / f"{name}.npy", npy_bytes(values))
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    write_bytes(folder / "arrangement.json", text.encode())


def load_arrangement(folder: Path) -> tuple[Arrangement, dict[str, Any]]:
    """Reads an arrangement and its provenance, and checks it against its checksums.

    Raises:
        UserError: a file is missing, damaged or from another save, named by its path.
    """
    path = folder / "arrangement.json"
    check(path.is_file(), f"{path}: not found; {AGAIN}")
    try:
        facts = json.loads(path.read_bytes())
        provenance = facts["provenance"]
        sums = {name: facts[f"{name}_sha256"] for name in ARRAYS}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); {AGAIN}") from error
    arrays = {name: _array(folder / f"{name}.npy", dtype) for name, dtype in ARRAYS.items()}
    for name, values in arrays.items():
        same = hashlib.sha256(values.tobytes()).hexdigest() == sums[name]
        check(same, f"{folder / f'{name}.npy'}: not the array {path.name} tells of; {AGAIN}")
    return Arrangement(**arrays), provenance


def _array(path: Path, dtype: np.dtype) -> np.ndarray:
    check(path.is_file(), f"{path}: not found; {AGAIN}")
    try:
        values = load_npy(path, mapped=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); {AGAIN}") from error
    check(values.dtype == dtype, f"{path}: dtype {values.dtype}, not {dtype}; {AGAIN}")
    return np.ascontiguousarray(values)


def _integers(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values)
    whole = np.issubdtype(values.dtype, np.integer) or values.size == 0
    check(
        values.ndim == 1 and whole,
        f"arrangement: {name} is {values.shape} {values.dtype}; it must be (n,) of integers",
    )
    return values
