"""Draws that hang on a seed and on names alone, so that no other example or task changes them."""

import hashlib
from collections.abc import Sequence


def draw(seed: int, *names: str | int) -> int:
    """A whole number below 2**64, the same for the same seed and names on any machine."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *names):
        encoded = str(part).encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little")


def sample(ids: Sequence[str | int], size: int, seed: int, *names: str | int) -> list[int]:
    """Draws `size` of `ids`, or all where there are no more.

    Those with the smallest `draw(seed, *names, id)` are drawn, so the set drawn depends on the set
    of ids and not on their order, and a larger size adds some and gives none up.

    Returns:
        Indices into `ids`, ascending.
    """
    if size >= len(ids):
        return list(range(len(ids)))
    keys = [draw(seed, *names, identity) for identity in ids]
    return sorted(sorted(range(len(ids)), key=keys.__getitem__)[:size])
