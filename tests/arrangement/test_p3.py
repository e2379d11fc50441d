"""TMTA on real rows: all 10,596 training rows of P3 toward its 200 test rows, by all-MiniLM-L6-v2.

Run with `-m slow -s` to see the numbers; ZSG_JAX_CACHE names a folder that keeps the embeddings.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.arrangement import tmta
from zsg_jax.data.schemas.read import read_messages
from zsg_jax.similarity.encoders.embed import embed
from zsg_jax.similarity.encoders.sentence import SentenceEncoder
from zsg_jax.similarity.search.cosine import cosine_matrix


@pytest.fixture(scope="module")
def embeddings(assets, tmp_path_factory):
    kept = os.environ.get("ZSG_JAX_CACHE")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("embeddings")
    encoder = SentenceEncoder(assets / "models" / "all-MiniLM-L6-v2")
    both = []
    for side in ("train", "test"):
        rows = read_messages(assets / "data" / "p3" / f"{side}.jsonl.gz")[0]
        texts = [instance.text for instance in rows]
        both.append(embed(texts, encoder, folder / f"p3-{side}", shard_rows=512))
    return both


def by_the_matrix(similarity_NxT, farthest):
    """Algorithm 1 over the whole matrix: each column names a row, then all named are removed."""
    pool, order, turns = list(range(len(similarity_NxT))), [], []
    while pool:
        left = similarity_NxT[pool]
        # Of equals, NumPy gives the first.
        places = left.argmin(axis=0) if farthest else left.argmax(axis=0)
        named = {pool[place] for place in places}
        order += sorted(named)
        turns += [turns[-1] + 1 if turns else 1] * len(named)
        pool = [row for row in pool if row not in named]
    return np.array(order), np.array(turns)


def in_float64(train, test):
    train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    return train @ test.T


@pytest.mark.slow
@pytest.mark.parametrize("farthest", [False, True], ids=["min", "max"])
def test_every_row_of_p3_stands_where_the_matrix_puts_it(embeddings, farthest):
    train, test = embeddings
    assert (train.shape, test.shape) == ((10_596, 384), (200, 384))
    found = tmta(train, test, farthest=farthest)
    order, turn = by_the_matrix(cosine_matrix(train, test), farthest)
    np.testing.assert_array_equal(found.order, order)
    np.testing.assert_array_equal(found.turn, turn)
    wide = in_float64(np.asarray(train, np.float64), np.asarray(test, np.float64))
    other_order, other_turn = by_the_matrix(wide, farthest)
    turn_of, other_turn_of = np.empty(len(train), int), np.empty(len(train), int)
    turn_of[order], other_turn_of[other_order] = turn, other_turn
    sizes = found.turn_sizes
    print(
        f"\nTMTA {'max' if farthest else 'min'} on P3: {len(sizes)} turns, the first ten of "
        f"{sizes[:10].tolist()} rows; with a float64 matrix {(order != other_order).sum()} places "
        f"hold another row, {(turn_of != other_turn_of).sum()} rows are of another turn"
    )
