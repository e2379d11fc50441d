"""The similarity spaces there are: what each is called, and the encoder that makes it.

A new one is a class like `Encoder` in a file of this folder, and a row of `ENCODERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.runtime.errors import check

NAMED = "name:"


class Encoder(Protocol):
    """What turns texts into embeddings.

    One that embeds test examples in another way has a method `targets`, which gives what does.

    Attributes:
        name: the encoder's name in file names and reports.
        dimension: columns of an embedding.
        fingerprint: changes whenever the same text would give another embedding.
        prompts: texts to be put before a text, by their names.
        default_prompt: the name of the one that is put where none is asked for; None for none.
        conversations: whether its texts are what `views.conversations` gives, and not texts.
    """

    name: str
    dimension: int
    fingerprint: str
    prompts: Mapping[str, str]
    default_prompt: str | None
    conversations: bool

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """(n, dimension) float32 of length one, each a function of its own text."""


def choose_encoder(name: str, called: str = "") -> Encoder:
    """The encoder called `name` in `ENCODERS`, or else the sentence encoder in that folder.

    Args:
        name: a key of `ENCODERS`, or a folder.
        called: what reports are to call it; "" for the folder's own name.
    """
    return ENCODERS[name]() if name in ENCODERS else _sentence(name, called)


def prompt_text(encoder: Encoder, asked: str | None, flag: str) -> str:
    """What stands before every text of a side.

    Args:
        encoder: whose prompts those by name are.
        asked: a text; "name:NAME" for one of the encoder's; None for its default.
        flag: what the user gave it as.

    Raises:
        UserError: the encoder has no prompt of that name.
    """
    known = ", ".join(map(repr, encoder.prompts)) or "none"
    if asked is None:
        name = encoder.default_prompt
        return encoder.prompts[name] if name else ""
    if asked.startswith(NAMED):
        name = asked.removeprefix(NAMED)
        check(
            name in encoder.prompts,
            f"{flag}={asked!r}: {encoder.name} has no prompt of this name; it has {known}",
        )
        return encoder.prompts[name]
    check(
        asked not in encoder.prompts,
        f"{flag}={asked!r} is the name of a prompt of {encoder.name}; give {NAMED}{asked} for it",
    )
    return asked


# Imported only where they are made: what either needs takes seconds to import.
def _hashing() -> Encoder:
    from zsg_jax.similarity.encoders.hashing import HashingEncoder

    return HashingEncoder()


def _sentence(folder: str, called: str) -> Encoder:
    from zsg_jax.similarity.encoders.sentence import SentenceEncoder

    # Each process embeds a share of its own, so the devices of others would wait for ever.
    mesh = Mesh(np.asarray(jax.local_devices()), ("rows",))
    return SentenceEncoder(folder, mesh=mesh, called=called)


ENCODERS: dict[str, Callable[[], Encoder]] = {"hashing": _hashing}
