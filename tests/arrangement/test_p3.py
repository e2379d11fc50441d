"""Methods on real examples: P3, of which TMTA takes all 10,596 toward 200, by all-MiniLM-L6-v2.

Run with `-m slow -s` to see the numbers; ZSG_JAX_CACHE names a folder that keeps the embeddings.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from zsg_jax.arrangement import tmta
from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import METHODS, arrange
from zsg_jax.similarity.encoders.embed import embed
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.similarity.encoders.sentence import SentenceEncoder
from zsg_jax.similarity.search.cosine import cosine_matrix
from zsg_jax.similarity.trajectory import trajectory


@pytest.fixture(scope="module")
def hashed(assets, read_source):
    """Every tenth training example and its task, all test examples, by hashed n-grams."""
    train, test = (
        read_source(assets / "data" / "p3" / f"{side}.jsonl.gz")[0] for side in ("train", "test")
    )
    train = list(train)[:10_000:10]
    encoder = HashingEncoder(128)
    embeddings = (encoder.encode([instance.text for instance in part]) for part in (train, test))
    return *embeddings, [instance.task for instance in train]


def test_the_studys_orders(hashed):
    train, test, tasks = hashed
    given = Comparison(train, test, tasks, budget=300)
    similarity = cosine_matrix(train, test)
    found = {name: arrange(name, given, 0).order.tolist() for name in METHODS}
    assert found["tmta-fft"] == found["tmta-nft"][::-1]
    whole = Comparison(train, test, tasks, budget=None)
    for name in ("wsd", "min", "max", "avg", "ot", "coarse"):
        nearest_first = arrange(f"{name}-nft", whole, 0).order.tolist()
        assert found[f"{name}-fft"] == nearest_first[::-1][:300]

    order, turn = by_the_matrix(similarity, False)
    near = order[: (turn <= turn[149]).sum()].tolist()
    order, turn = by_the_matrix(similarity, True)
    far = order[: (turn <= turn[149]).sum()].tolist()
    assert found["tmta-min-max"] == near + [i for i in far[::-1] if i not in near]
    assert found["tmta-max-min"] == far + [i for i in near[::-1] if i not in far]

    low, mean = -similarity.max(axis=1).astype(float), -similarity.mean(axis=1, dtype=float)
    both_ends, every_third = [], []
    wsd = np.empty(1000)
    for task in dict.fromkeys(tasks):
        own = [i for i, other in enumerate(tasks) if other == task]
        wsd[own] = low[own] + mean[own] * (low[own].mean() / mean[own].mean())
        by_wsd = sorted(own, key=lambda i: (wsd[i], i))
        both_ends += by_wsd[:2] + by_wsd[max(2, len(by_wsd) - 2) :]
        every_third += by_wsd[::3]
    for name, expected in (("polar-4", both_ends), ("uniform-3", every_third)):
        # Equal texts may change places by a rounding.
        order = arrange(name, whole, 0).order
        np.testing.assert_allclose(wsd[order], wsd[expected], rtol=0, atol=1e-6)
        assert [tasks[i] for i in order] == [tasks[i] for i in expected]


def test_the_studys_transport(hashed):
    train, test, _ = hashed
    # Five copies of each test example make the best plan the best assignment.
    cost = -in_float64(train.astype(float), test.astype(float))
    wide = cost.repeat(5, axis=1)
    paid = wide[linear_sum_assignment(wide)]
    order = arrange("ot-nft", Comparison(train, test, range(1000), budget=None), 0).order
    assert np.diff(paid[order]).min() > -1e-6


def test_the_studys_trajectory(hashed):
    train, test, _ = hashed
    order = np.random.default_rng(0).permutation(1000)
    found = trajectory(train, test, order, batch_size=8, every=40)
    # Every 160 examples, every 40 steps, and the last one.
    assert found.examples.tolist() == [160, 320, 480, 640, 800, 960, 1000]
    distances = -in_float64(train.astype(float), test.astype(float))[order]
    for place, seen in enumerate(found.examples):
        part = distances[:seen]
        for name, value in (("average", part.mean()), ("nearest", part.min(axis=0).mean())):
            assert found.values[name][place] == pytest.approx(value, abs=1e-6)


@pytest.fixture(scope="module")
def embeddings(assets, tmp_path_factory, read_source):
    kept = os.environ.get("ZSG_JAX_CACHE")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("embeddings")
    encoder = SentenceEncoder(assets / "models" / "all-MiniLM-L6-v2")
    both = []
    for side in ("train", "test"):
        rows = read_source(assets / "data" / "p3" / f"{side}.jsonl.gz")[0]
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
