"""From an encoder's name to the encoder."""

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.similarity.embeddings import Encoder


def choose_encoder(name: str) -> Encoder:
    """The encoder that `name` stands for: "hashing", or a BERT sentence encoder's folder."""
    # Imported here: what either needs takes seconds to import.
    if name == "hashing":
        from zsg_jax.similarity.encoders.hashing import HashingEncoder

        return HashingEncoder()
    from zsg_jax.similarity.encoders.sentence import SentenceEncoder

    # Each process embeds a share of its own, so the devices of others would wait for ever.
    return SentenceEncoder(name, mesh=Mesh(np.asarray(jax.local_devices()), ("rows",)))
