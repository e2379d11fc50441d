"""Sides that are measured in turns, and what is told of a side that trains."""

import math
import statistics
from collections.abc import Callable

from measuring import Measured

from zsg_jax.runtime.errors import UserError


def turns(runs: int, *sides: Callable[[], Measured]) -> list[Measured]:
    """Measures the sides one after the other, `runs` times; each with its median seconds.

    A side that has no room for its work is not asked again.
    """
    taken: list[list[Measured]] = [[] for _ in sides]
    for _ in range(runs):
        for measure, found in zip(sides, taken, strict=True):
            if not found or "lacks" not in found[-1].result:
                found.append(measure())
    return [
        found[-1]._replace(seconds=statistics.median(one.seconds for one in found))
        for found in taken
    ]


def mfu(row: Measured, ours: Measured) -> float | None:
    """By one formula for both sides: the same model, tokens and device."""
    peak = ours.result["peak_flops"]
    return None if peak is None else ours.result["flops"] / row.seconds / peak


def rate(row: Measured, tokens: int, ours: Measured) -> str:
    """A line of tokens a second and MFU."""
    if "lacks" in row.result:
        return f"{row.what:38}DOES NOT FIT: {row.result['lacks']}"
    share = mfu(row, ours)
    told = "MFU not known" if share is None else f"MFU {share:.1%}"
    memory = row.result["memory"]
    used = "" if memory is None else f", {memory / 1e9:.1f} GB of the device"
    return f"{row.what:38}{tokens / row.seconds:10.0f} tokens a second, {told}{used}"


def alike(ours: Measured, peer: Measured, apart: float) -> None:
    """Refuses a comparison of two that compute different things.

    Raises:
        UserError: a loss of one is further than `apart` from the other's.
    """
    pairs = zip(ours.result["losses"], peer.result["losses"], strict=True)
    found = [abs(a - b) for a, b in pairs]
    # Told one by one: the largest of some numbers and a NaN may be a number.
    if not all(math.isfinite(one) and one < apart for one in found):
        raise UserError(f"{peer.what}: its losses are {max(found):g} from those of {ours.what}")
