"""Records of examples, kept as they are measured, so that an evaluation that is killed goes on.

What an evaluation goes on from no checkpoint has told of yet; `runtime.appended` guards it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsg_jax.models.placement import Params
from zsg_jax.runtime import appended
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import write_bytes
from zsg_jax.runtime.processes import check_owned, is_first, of_all, wait_for_all
from zsg_jax.training import metrics

GENERATIONS, SCORES = metrics.GENERATIONS, metrics.SCORES
Record = dict[str, Any]


def params_digest(params: Params) -> str:
    """16 hexadecimal digits of the bits of all parameters, however they are sharded."""
    sums = jax.device_get(_sums(params))
    return hashlib.sha256(np.array(jax.tree.leaves(sums), np.uint32).tobytes()).hexdigest()[:16]


@jax.jit
def _sums(params: Params) -> Any:
    def total(leaf: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
        index = jnp.zeros(leaf.shape, jnp.uint32)
        for axis, size in enumerate(leaf.shape):
            index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(
                jnp.uint32, leaf.shape, axis
            )
        # Whole numbers modulo 2^32: the order of a sum does not matter.
        return jnp.sum(bits.astype(jnp.uint32) * (2 * index + 1), dtype=jnp.uint32)

    return jax.tree.map(total, params)


def measured(
    path: Path | None,
    head: Record,
    batches: Sequence[Sequence[int]],
    measure: Callable[[Sequence[int]], list[Record]],
    fields: Collection[str] = (),
) -> list[Record]:
    """The records of all examples of all batches, measured where they are not in the file yet.

    They are written batch by batch, so that one that a kill cuts off is measured again whole, as it
    was. Several processes measure together, and the first writes.

    Args:
        path: of the file, one JSON object a line; None: nothing is kept.
        head: what the records of this evaluation have in common and others have not, such as step,
            the measure's name and `params_digest`. What the file holds of the same step and measure
            under other parameters is dropped, with all that follows it.
        batches: which examples are measured together, the same at every call.
        measure: gives a record for each example of a batch, in their order, that JSON can hold.
        fields: that each must have; the file's are dropped where they were measured by fewer.

    Returns:
        The records, batch by batch, each with `head`.
    """
    done = _kept(path, head, sum(map(len, batches)), fields) if path and is_first() else []
    if jax.process_count() > 1:
        done = of_all(done)[0]
    records: list[Record] = []
    written = None
    for batch in batches:
        if len(records) + len(batch) <= len(done):
            records += done[len(records) :][: len(batch)]
            continue
        new = [head | one for one in measure(batch)]
        if path and is_first():
            check_owned()
            written = written or appended.Written(path)
            append(path, written, new[max(0, len(done) - len(records)) :])
        records += new
    if path:
        wait_for_all(f"records {path.name}")
    return records


def read(path: Path) -> list[Record]:
    """The records of a file, none where there is none; a last line cut short is left out.

    Raises:
        UserError: for a damaged line before the last.
    """
    return [record for record, _ in _lines(path)]


def mended(path: Path) -> list[Record]:
    """The records of a file that are told of beside it; what follows them is cut off.

    Raises:
        UserError: what is told of is not what was written.
    """
    checked = appended.checked(path)
    lines = [line for line in _lines(path) if line[1] <= checked]
    end = lines[-1][1] if lines else 0
    if path.exists() and path.stat().st_size != end:
        write_bytes(path, path.read_bytes()[:end])
    return [record for record, _ in lines]


def cut(path: Path, after_step: int) -> None:
    """Leaves of a file the records of steps up to `after_step`, the later ones being made anew."""
    lines = _lines(path)
    starts = [0, *(end for _, end in lines[:-1])]
    content = path.read_bytes() if lines else b""
    kept = [
        content[start:end]
        for start, (one, end) in zip(starts, lines, strict=bool(lines))
        if one["step"] <= after_step
    ]
    if len(kept) < len(lines):
        appended.checked(path)
        write_bytes(path, b"".join(kept))
        appended.forget(path)


def _lines(path: Path) -> list[tuple[Record, int]]:
    """Each record, and where its line ends."""
    if not path.exists():
        return []
    found: list[tuple[Record, int]] = []
    at = 0
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: is damaged; delete the file to measure all again")
        at += len(line) + 1
        found.append((record, at))
    return found


def _kept(path: Path, head: Record, wanted: int, fields: Collection[str]) -> list[Record]:
    """What the file holds of this evaluation; what cannot stand behind it is cut off."""
    checked = appended.checked(path)
    lines = _lines(path)
    step = {key: value for key, value in head.items() if key != "params"}
    first = next((i for i, (one, _) in enumerate(lines) if step.items() <= one.items()), None)
    kept: list[Record] = []
    end = lines[-1][1] if lines else 0
    if first is not None:
        known = (line for line in lines[first:] if line[1] <= checked)
        same = takewhile(
            lambda line: head.items() <= line[0].items() and line[0].keys() >= set(fields), known
        )
        kept = [one for one, _ in same][:wanted]
        if len(kept) < wanted:
            end = lines[first + len(kept) - 1][1] if first + len(kept) else 0
    if path.exists() and path.stat().st_size != end:
        write_bytes(path, path.read_bytes()[:end])
    return kept


def append(path: Path, written: appended.Written, records: Sequence[Record]) -> None:
    """Adds records to a file, on the disk, and notes them in what is written there."""
    _append(path, records)
    written.tell(b"".join(map(json_line, records)))


def _append(path: Path, records: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(b"".join(map(json_line, records)))
        file.flush()
        os.fsync(file.fileno())


def json_line(record: Record) -> bytes:
    """A record as its line of a file."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
