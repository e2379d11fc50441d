"""What tells the embeddings of one model and its settings from those of another."""

import hashlib
import json
from typing import Any

import jax
import numpy as np


def fingerprint(params: Any, version: int, *settings: Any) -> str:
    """SHA-256 over the weights as numbers, whatever files they lay in, and all the settings.

    Args:
        params: nested dict of arrays.
        version: of the code that embeds.
        settings: JSON values, or what `repr` tells apart.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf, "<f4").tobytes())
    digest.update(json.dumps([version, *settings], sort_keys=True, default=repr).encode())
    return digest.hexdigest()
