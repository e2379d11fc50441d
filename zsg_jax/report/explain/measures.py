"""Compares the examples of an order with the test examples, in passes that hold a few blocks."""

from typing import NamedTuple

import numpy as np

from zsg_jax.similarity.embeddings import Embeddings, SelectedEmbeddings, unit_embeddings
from zsg_jax.similarity.search.cosine import scan, top_k
from zsg_jax.similarity.search.options import Search

PAIRS = 10_000  # drawn to tell what is unlikely of two examples of a pool and a test set
SHARE = 0.99  # of these; what is said to resemble has a cosine that about so many have not


class Resembling(NamedTuple):
    """From which cosine on a training example is said to resemble a test example.

    Attributes:
        cosine: at least this.
        below: share of random pairs whose cosine is lower; of few examples not quite `SHARE`.
    """

    cosine: float
    below: float


class Measured(NamedTuple):
    """Exact cosines of an order of n examples with T test examples.

    Attributes:
        mean: (n,) float32, by position: mean over the test examples.
        best: (n,) float32, by position: with the nearest test example.
        nearest: (n,) int64, by position: that test example; ties go to the lower index.
        cosines: (T, k) float32: of each test example with its nearest, nearest first.
        positions: (T, k) int64 from 0: where those stand; ties go to the lower training index.
    """

    mean: np.ndarray
    best: np.ndarray
    nearest: np.ndarray
    cosines: np.ndarray
    positions: np.ndarray


def measure(
    order: np.ndarray, train: Embeddings, test: Embeddings, k: int, *, search: Search = Search()
) -> Measured:
    """Goes over the embeddings of an order as they lie on disk.

    Args:
        order: (n,) int64 indices into `train`, n at least 1, none twice.
        train: (N, D) floats.
        test: (T, D) floats, T at least 1; held in memory.
        k: how many nearest examples to list; fewer where n is below it.
        search: devices, block size and progress; they change no cosine.

    Raises:
        UserError: a NaN or an infinity in an embedding, widths that differ.
    """
    places = np.argsort(order)
    ascending = order[places]
    left_out = np.ones(len(train), bool)
    left_out[order] = False
    found = scan(
        train, test, nearest=min(k, len(order)), statistics=True, excluded=left_out, search=search
    )
    assert found.statistics is not None
    assert found.nearest is not None
    cosines, indices = found.nearest
    mean, best = np.empty((2, len(order)), np.float32)
    mean[places], best[places] = found.statistics.mean, found.statistics.maximum
    nearest = np.empty(len(order), np.int64)
    size = search.block_size * (1 if search.mesh is None else search.mesh.size)
    # Alike in size, so that all are of one compiled shape.
    for here in np.array_split(places, -(-len(order) // size)):
        block = SelectedEmbeddings(train, order[here])[:]
        nearest[here] = top_k(test, block, 1, search=search.quiet)[1][:, 0]
    return Measured(mean, best, nearest, cosines, places[np.searchsorted(ascending, indices)])


def resembling(train: Embeddings, test: Embeddings) -> Resembling:
    """The cosine from which a training example is said to resemble a test example.

    That which `SHARE` of random pairs of both sides, `PAIRS` of them drawn by a fixed seed, do not
    reach: so it follows from the encoder and the data, whatever range of cosines they have.

    Args:
        train: (N, D) floats, N at least 1, of which at most `PAIRS` are read.
        test: (T, D) floats, T at least 1.
    """
    draws = np.random.default_rng(0)
    rows, inverse = np.unique(draws.integers(len(train), size=PAIRS), return_inverse=True)
    left = unit_embeddings(SelectedEmbeddings(train, rows), "train")[inverse]
    right = unit_embeddings(test, "test")[draws.integers(len(test), size=PAIRS)]
    cosines = np.einsum("nd,nd->n", left, right, dtype=np.float64)
    # One of them, less what the rounding of a cosine may be.
    least = float(np.quantile(cosines, SHARE, method="higher")) - 1e-6
    return Resembling(least, float((cosines < least).mean()))
