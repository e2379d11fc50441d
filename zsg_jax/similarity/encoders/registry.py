"""The similarity spaces there are: what each is called, and the encoder that makes it.

A new one is a class like `Encoder` in a file of this folder, and a row of `ENCODERS`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh


class Encoder(Protocol):
    """What turns texts into embeddings.

    Attributes:
        name: the encoder's name in file names and reports.
        dimension: columns of an embedding.
        fingerprint: changes whenever the same text would give another embedding.
    """

    name: str
    dimension: int
    fingerprint: str

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """(n, dimension) float32 of length one, each a function of its own text."""


def choose_encoder(name: str) -> Encoder:
    """The encoder called `name` in `ENCODERS`, or else the sentence encoder in that folder."""
    return ENCODERS[name]() if name in ENCODERS else _sentence(name)


# Imported only where they are made: what either needs takes seconds to import.
def _hashing() -> Encoder:
    from zsg_jax.similarity.encoders.hashing import HashingEncoder

    return HashingEncoder()


def _sentence(folder: str) -> Encoder:
    from zsg_jax.similarity.encoders.sentence import SentenceEncoder

    # Each process embeds a share of its own, so the devices of others would wait for ever.
    return SentenceEncoder(folder, mesh=Mesh(np.asarray(jax.local_devices()), ("rows",)))


ENCODERS: dict[str, Callable[[], Encoder]] = {"hashing": _hashing}
