"""What each training row is to all test rows together, taken inside a tile of products."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zsg_jax.similarity.search.stream import TEST_MULTIPLE


class RowStatistics(NamedTuple):
    """What each training row is to the test rows; each field is (N,) float32.

    Attributes:
        minimum, maximum, mean: cosine over the test rows.
        euclidean: mean Euclidean distance between unit rows, sqrt(2 - 2·cos), over the test rows.
    """

    minimum: np.ndarray
    maximum: np.ndarray
    mean: np.ndarray
    euclidean: np.ndarray


def of_tile(product_TxR: jax.Array, tests: jax.Array) -> jax.Array:
    """The fields of `RowStatistics`, (4, R) float32, of a tile's rows.

    The mean cosine is the product with the mean test row, which `stream` puts after the last of
    the `tests` real ones; a distance is no linear function of the rows, so its mean is taken over
    all pairs.
    """
    product_TxR = jnp.where(product_TxR == 0, 0.0, product_TxR)  # no negative zeros
    real_Tx1 = (jnp.arange(len(product_TxR)) < tests)[:, None]
    minimum = jnp.where(real_Tx1, product_TxR, jnp.inf).min(axis=0)
    maximum = jnp.where(real_Tx1, product_TxR, -jnp.inf).max(axis=0)
    distance_TxR = jnp.sqrt(jnp.maximum(2 - 2 * product_TxR, 0))
    # Sums of some rows, then their sum, lose less than one long sum; XLA must not make them one.
    parts_GxMxR = jnp.where(real_Tx1, distance_TxR, 0).reshape(
        -1, TEST_MULTIPLE, distance_TxR.shape[1]
    )
    sums_GxR = lax.optimization_barrier(parts_GxMxR.sum(axis=1))
    sums_R = lax.optimization_barrier(sums_GxR.sum(axis=0))
    return jnp.stack([minimum, maximum, product_TxR[tests], sums_R / tests])
