"""What embedding both sides took is told of all starts, of killed ones what they have left."""

import json

import pytest

from zsg_jax.arrangement import embedded
from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.similarity.encoders.hashing import HashingEncoder


def rows(count):
    turns = (Turn("user", "ask"), Turn("assistant", "answer"))
    return from_list([Instance(str(n), "t", turns, ("answer",)) for n in range(count)])


def test_the_cost_of_embeddings_outlives_a_kill(tmp_path, monkeypatch):
    now, left = [0.0], [1]
    encode = HashingEncoder.encode

    def ten_seconds(self, *given):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        now[0] += 10
        return encode(self, *given)

    monkeypatch.setattr(embedded.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(HashingEncoder, "encode", ten_seconds)
    with pytest.raises(KeyboardInterrupt):
        embedded.embed_pair(rows(4), rows(3), "hashing", tmp_path)
    left[0] = 9
    embedded.embed_pair(rows(4), rows(3), "hashing", tmp_path)
    told = json.loads((tmp_path / embedded.COST).read_text())
    sizes = [path.stat().st_size for path in tmp_path.rglob("*.npy")]
    assert told == {"seconds": 20.0, "bytes": sum(sizes)}
