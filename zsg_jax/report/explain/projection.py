"""Lays a sample of the embeddings on a plane: the two directions in which they vary most."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA

from zsg_jax.report.explain.bins import even_places
from zsg_jax.report.explain.measures import fetch
from zsg_jax.similarity.embeddings import unit_embeddings

TRAIN_POINTS = 4000
TEST_POINTS = 1000


class Projection(NamedTuple):
    """Points on a plane.

    Attributes:
        train: (s, 2) float64.
        positions: (s,) int64, ascending: where those rows stand in the order.
        test: (u, 2) float64.
        explained: (2,) float64, share of the sample's variance along each axis.
    """

    train: np.ndarray
    positions: np.ndarray
    test: np.ndarray
    explained: np.ndarray


def project(order: np.ndarray, train_rows: Any, test_rows: np.ndarray) -> Projection:
    """PCA of unit rows, fitted on the points drawn: rows evenly spaced in the order, and test rows.

    An axis along which nothing varies has coordinates 0 and explains 0.
    """
    positions = even_places(len(order), TRAIN_POINTS)
    rows = order[positions]
    places = np.argsort(rows)
    sample = np.empty((len(rows), train_rows.shape[1]), np.float32)
    sample[places] = unit_embeddings(fetch(train_rows, rows[places]), "train")
    test = unit_embeddings(test_rows[even_places(len(test_rows), TEST_POINTS)], "test")
    points = np.concatenate([sample, test])
    plane, explained = np.zeros((len(points), 2)), np.zeros(2)
    axes = min(2, *points.shape)
    if (points != points[0]).any():
        # The randomized solver costs little at any width; its seed makes it repeat itself.
        pca = PCA(axes, svd_solver="randomized", random_state=0)
        plane[:, :axes] = pca.fit_transform(points)
        explained[:axes] = pca.explained_variance_ratio_
    return Projection(plane[: len(rows)], positions, plane[len(rows) :], explained)
