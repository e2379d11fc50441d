"""Arrangements on disk: what the training run reads and what other programs may read."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import npy_bytes, write_bytes

ARRAYS: dict[str, np.dtype] = {"order": np.dtype("<i8"), "turn": np.dtype("<i4")}
AGAIN = "delete the folder to make the arrangement again"


def save(arrangement: Arrangement, folder: Path, provenance: dict[str, Any]) -> None:
    """Writes `order.npy`, `turn.npy` and, last, `arrangement.json`, each atomically.

    The JSON file holds `provenance` (how the order was made; JSON values only), `rows`, `turns`,
    `turn_sizes`, and `order_sha256` and `turn_sha256` of the arrays as little-endian bytes.
    """
    folder = Path(folder)
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


def load(folder: Path) -> tuple[Arrangement, dict[str, Any]]:
    """Reads what `save` wrote and checks it against its checksums; gives the provenance too.

    Raises:
        UserError: a file is missing, damaged or from another save, named by its path.
    """
    path = Path(folder) / "arrangement.json"
    check(path.is_file(), f"{path}: not found; {AGAIN}")
    try:
        facts = json.loads(path.read_bytes())
        provenance = facts["provenance"]
        sums = {name: facts[f"{name}_sha256"] for name in ARRAYS}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); {AGAIN}") from error
    arrays = {name: _array(Path(folder) / f"{name}.npy", dtype) for name, dtype in ARRAYS.items()}
    for name, values in arrays.items():
        same = hashlib.sha256(values.tobytes()).hexdigest() == sums[name]
        check(same, f"{Path(folder) / f'{name}.npy'}: not the array {path.name} tells of; {AGAIN}")
    return Arrangement(**arrays), provenance


def _array(path: Path, dtype: np.dtype) -> np.ndarray:
    check(path.is_file(), f"{path}: not found; {AGAIN}")
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); {AGAIN}") from error
    check(values.dtype == dtype, f"{path}: dtype {values.dtype}, not {dtype}; {AGAIN}")
    return np.ascontiguousarray(values)
