"""Adds to a record what the arrangement found, and leaves the record's own bytes as they are."""

import json
import re
from collections.abc import Callable, Collection, Iterator

import numpy as np

TURN = "zsg_turn"
DISTANCE = "zsg_distance"

# A key that spells these names holds them as they are, or an escape of one of their characters.
_PERHAPS_NAMED = re.compile(rb"zsg_|\\u00[567]")

# Finds where a value ends; numbers are only passed over.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE = re.compile(r"[ \t\r\n]*")


def arranged(
    raw: Callable[[int], bytes], order: np.ndarray, turn: np.ndarray, distance: np.ndarray
) -> Iterator[bytes]:
    """The records of an order, each as `with_fields` gives it.

    Args:
        raw: gives the record of an example by its number.
        order, turn, distance: (n,), of each example in order.
    """
    for index, its_turn, far in zip(order, turn, distance, strict=True):
        yield with_fields(raw(int(index)), int(its_turn), float(far))


def with_fields(raw: bytes, turn: int, distance: float) -> bytes:
    """Adds "zsg_turn" and "zsg_distance" at the end of a JSON object.

    Every byte of the object stays but for fields that it has of these names, which are replaced.

    Args:
        raw: a JSON object as UTF-8 without white space around it.
        turn: the record's turn, from 1.
        distance: the record's distance to the test set, smaller for nearer.

    Raises:
        ValueError: for a distance that is no finite number.
    """
    added = {TURN: int(turn), DISTANCE: float(distance)}
    text = json.dumps(added, allow_nan=False).encode()
    if _PERHAPS_NAMED.search(raw):
        raw = _without(raw, added)
    start = raw[:-1]
    separator = b"" if start.rstrip().endswith(b"{") else b", "
    return start + separator + text[1:]


def _without(raw: bytes, names: Collection[str]) -> bytes:
    """A JSON object without its fields of some names; every other byte stays."""
    text = raw.decode()
    first = at = _space(text, text.index("{") + 1)
    spans: list[tuple[bool, int, int]] = []  # whether a field stays, its start and its end
    while text[at] != "}":
        key, after = _DECODER.raw_decode(text, at)
        _, after = _DECODER.raw_decode(text, _space(text, _space(text, after) + 1))
        spans.append((key not in names, at, after))
        at = _space(text, after)
        if text[at] == ",":
            at = _space(text, at + 1)
    kept, last = "", first
    for stays, start, end in spans:
        if stays:
            # With what stood between it and the one before it.
            kept += text[last if kept else start : end]
        last = end
    return (text[:first] + kept + text[last:]).encode()


def _space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]
