"""Attention in float64 NumPy, query by query, which every kernel is compared with."""

import numpy as np
import pytest


def _visible(segments, query, window):
    """The keys that one query of a row sees."""
    first = 0 if window is None else max(0, query - window + 1)
    if segments[query] == 0:
        return []
    return [key for key in range(first, query + 1) if segments[key] == segments[query]]


def _naive(q, k, v, segments, window, out_gradient):
    """The output and the gradients of q, k and v, by the chain rule written out."""
    q, k, v, out_gradient = (np.asarray(x, np.float64) for x in (q, k, v, out_gradient))
    out, dq, dk, dv = (np.zeros_like(x) for x in (q, q, k, v))
    B, L, K, G, H = q.shape
    for b, t, h, g in np.ndindex(B, L, K, G):
        keys = _visible(segments[b], t, window)
        if not keys:
            continue
        scores = k[b, keys, h] @ q[b, t, h, g] / np.sqrt(H)
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[b, t, h, g] = weights @ v[b, keys, h]
        upstream = out_gradient[b, t, h, g]
        dv[b, keys, h] += np.outer(weights, upstream)
        dweights = v[b, keys, h] @ upstream
        dscores = weights * (dweights - weights @ dweights) / np.sqrt(H)
        dq[b, t, h, g] = dscores @ k[b, keys, h]
        dk[b, keys, h] += np.outer(dscores, q[b, t, h, g])
    return out, dq, dk, dv


def _laid_out(rows, length):
    """Segment ids, (B, L) int32: instances of these lengths, one row after the other, cut off."""
    ids = np.zeros((len(rows), length), np.int32)
    for row, lengths in zip(ids, rows, strict=True):
        start = 0
        for number, n in enumerate(lengths, start=1):
            row[start : start + n] = number
            start += n
    return ids


@pytest.fixture(scope="session")
def visible():
    return _visible


@pytest.fixture(scope="session")
def naive():
    return _naive


@pytest.fixture(scope="session")
def laid_out():
    return _laid_out


@pytest.fixture(scope="session")
def arrays():
    """Makes q, k, v and the gradient of the output, normal float32 arrays."""

    def make(seed, B, L, K, G, H):
        rng = np.random.default_rng(seed)
        shapes = (B, L, K, G, H), (B, L, K, H), (B, L, K, H), (B, L, K, G, H)
        return [rng.normal(size=shape).astype(np.float32) for shape in shapes]

    return make
