"""Which examples were taken, in which order, as one digest."""

import hashlib
from collections.abc import Iterable, Sequence


class OrderDigest:
    """Running SHA-256 over the ids of the instances consumed, each followed by a line break.

    So `printf '%s\\n' ID… | sha256sum` over the ids of steps 1 to s gives the digest of step s.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        """Takes the id of every training instance."""
        self._ids = ids
        self._hash = hashlib.sha256()
        self.instances = 0

    def feed(self, index: Iterable[int]) -> str:
        """Adds instances by their index, skipping -1, and returns the digest in hexadecimal."""
        for i in index:
            if i >= 0:
                self._hash.update(self._ids[i].encode() + b"\n")
                self.instances += 1
        return self._hash.hexdigest()
