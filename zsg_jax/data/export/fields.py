"""Adds to a record what the arrangement found, and leaves the record's own bytes as they are."""

import json
import re

TURN = "zsg_turn"
DISTANCE = "zsg_distance"

# A key that spells these names holds them as they are, or an escape of one of their characters.
_PERHAPS_NAMED = re.compile(rb"zsg_|\\u00[567]")


def with_fields(raw: bytes, turn: int, distance: float) -> bytes:
    """Adds "zsg_turn" and "zsg_distance" at the end of a JSON object.

    Every byte of the object stays; only where it has one of these fields already, it is written
    anew with the field replaced.

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
        record = json.loads(raw)
        if TURN in record or DISTANCE in record:
            return json.dumps(record | added).encode()
    start = raw[:-1]
    separator = b"" if start.rstrip().endswith(b"{") else b", "
    return start + separator + text[1:]
