"""Projection by signs against NumPy with the same signs, and what signs must be."""

import jax
import numpy as np
import pytest

from zsg_jax.similarity.encoders.buckets import first_device
from zsg_jax.similarity.encoders.projection import UNIT, Projection, signs

MESH = first_device()


def projected(projection, vectors, sizes=(1, 3, 4)):
    """Vectors as they come: in batches of other sizes, some rows of which mean nothing."""
    found, start, batches = np.full((len(vectors), projection.dimension), np.nan), 0, []
    filled = np.asarray(projection.fill(vectors))
    while start < len(vectors):
        size = sizes[len(batches) % len(sizes)]
        places = list(range(start, min(start + size, len(vectors))))
        batch = np.full((size, projection.width), 7, np.float32)
        batch[: len(places)] = filled[places]
        batches.append((places, jax.device_put(batch)))
        start += size

    for places, rows in projection.run(batches):
        found[places] = rows
    return found


@pytest.mark.parametrize(("count", "dimension"), [(700, 64), (256, 33), (5, 1000)])
def test_it_is_the_product_with_the_signs(count, dimension):
    vectors = np.random.default_rng(1).normal(size=(11, count)).astype(np.float32)
    projection = Projection(count, dimension, 3, MESH)
    every = np.concatenate([signs(3, dimension, unit) for unit in range(-(-count // UNIT))])
    assert set(np.unique(every)) == {-1.0, 1.0}
    expected = vectors.astype(np.float64) @ every[:count] / np.sqrt(dimension)
    np.testing.assert_allclose(projected(projection, vectors), expected, atol=1e-5 * count**0.5)


def test_inner_products_stay_within_their_error():
    rng, dimension = np.random.default_rng(0), 2048
    vectors = rng.normal(size=(40, 1500))
    vectors[20:] = vectors[:20] + rng.uniform(0, 3, (20, 1)) * vectors[20:]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = projected(Projection(1500, dimension, 0, MESH), vectors)
    cosines, kept = vectors @ vectors.T, found @ found.T
    off = (kept - cosines) / np.sqrt((1 + cosines**2) / dimension)
    # Normal in good approximation: of 820 pairs the largest is seldom beyond 4, and the mean small.
    assert np.abs(off).max() < 5
    assert 0.7 < off[np.triu_indices(40, 1)].std() < 1.3
    assert np.abs(off[np.triu_indices(40, 1)].mean()) < 0.25


def test_signs_are_even_and_others_for_every_coordinate_and_seed():
    some = np.stack([signs(seed, 512, unit) for seed, unit in ((0, 0), (0, 1), (1, 0))])
    assert np.abs(some.mean(axis=(1, 2))).max() < 5 / np.sqrt(UNIT * 512)
    columns = np.concatenate(some)
    between = columns.T @ columns / len(columns)
    assert np.abs(between - np.eye(512)).max() < 6 / np.sqrt(len(columns))
    rows = columns @ columns.T / 512
    assert np.abs(rows - np.eye(len(rows))).max() < 6 / np.sqrt(512)


def test_a_vector_has_the_same_bits_in_any_company():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(150, 300)).astype(np.float32)
    projection = Projection(300, 96, 0, MESH)
    found = projected(projection, vectors)
    for sizes in ((2,), (1, 7, 40), (projection.rows,)):
        some = rng.permutation(150)[: rng.integers(1, 150)]
        assert (projected(projection, vectors[some], sizes) == found[some]).all()
