"""What tests of training share: a small batch."""

import numpy as np
import pytest

from zsg_jax.training.sharding import place_batch


@pytest.fixture(scope="session")
def batch():
    """Lays 8 sequences of 16 tokens, easily learnt, on a mesh."""

    def make(mesh, words):
        place = np.broadcast_to(np.arange(16), (8, 16))
        first = np.random.default_rng(0).integers(0, words, (8, 1))
        laid = {
            "tokens": ((first + 3 * place) % words).astype(np.int32),
            "positions": place.astype(np.int32),
            "segment_ids": np.ones((8, 16), np.int32),
            "loss_mask": place > 1,
            "index": np.arange(8, dtype=np.int32),
        }
        return place_batch(laid, mesh)

    return make
