"""What is measured: each function here runs alone in a process, started by `measuring.child`."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import peak_memory, timed

from zsg_jax.arrangement.turns import tmta as arrange
from zsg_jax.similarity.embeddings import Embeddings, StoredEmbeddings
from zsg_jax.similarity.search.cosine import cosine_matrix
from zsg_jax.similarity.search.options import Search

BLOCK_ROWS = 8192  # the default of `tmta`


def tmta(train: str, test: str, in_memory: bool, budget: int | None, runs: int) -> tuple:
    """This project's arrangement; the first of several runs compiles."""
    a, b = _open(train, in_memory), _open(test, True)
    passes: list[int] = []
    follow = Search(on_progress=lambda rows, of: passes.append(rows))

    def run() -> Any:
        passes.clear()
        return arrange(a, b, budget=budget, search=follow)

    seconds, found = timed(run, runs)
    result = {
        "turns": len(found.turn_sizes),
        "chosen": len(found),
        "rows_streamed": sum(passes),
        "digest": _digest(found.order, found.turn),
    }
    return seconds, result


def study(train: str, test: str, budget: int | None, transposed: bool) -> tuple:
    """Algorithm 1 with the whole matrix: each test row's smallest distance, then removal.

    Its matrix product is NumPy's and is timed; the turns, timed too, go over this project's cosines
    instead, bit for bit those of `tmta`, so that the orders can be compared.
    """
    a, b = _open(train, True), _open(test, True)
    product, _ = timed(lambda: a @ b.T, 1)
    distances = -cosine_matrix(a, b)
    if transposed:
        distances = np.ascontiguousarray(distances.T)
    axis = 1 if transposed else 0
    wanted = len(a) if budget is None else min(budget, len(a))

    def turns() -> tuple[list[np.ndarray], list[int]]:
        left, remaining = distances, np.arange(len(a))
        order, sizes = [], []
        while sum(sizes) < wanted:
            subset = np.unique(left.argmin(axis=axis))
            order.append(remaining[subset])
            sizes.append(len(subset))
            remaining = np.delete(remaining, subset)
            left = np.delete(left, subset, axis=axis)
        return order, sizes

    seconds, (order, sizes) = timed(turns, 1)
    turn = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes)
    result = {"turns": len(sizes), "digest": _digest(np.concatenate(order), turn)}
    return product + seconds, result


def faiss_search(train: str, test: str, k: int, runs: int) -> tuple:
    """Exact top-k by faiss, building its index not counted."""
    import faiss

    a, b = _open(train, True), np.asarray(_open(test, True))
    index = faiss.IndexFlatIP(a.shape[1])
    index.add(a)
    seconds, _ = timed(lambda: index.search(b, min(k, len(a))), runs)
    return seconds, {}


def matmul(train: str, test: str, in_memory: bool, runs: int) -> tuple:
    """Nothing but the product, in `tmta`'s blocks and precision, two blocks in flight."""
    a, b = _open(train, in_memory), _open(test, True)
    blocks = range(0, len(a), BLOCK_ROWS)
    test_on_device = jnp.asarray(b)

    @jax.jit
    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        return jax.lax.dot_general(
            y, wide, (((1,), (1,)), ((), ())), precision=jax.lax.Precision.HIGHEST
        )

    def run() -> None:
        before = None
        for start in blocks:
            now = product(jnp.asarray(a[start : start + BLOCK_ROWS]), test_on_device)
            if before is not None:
                before.block_until_ready()
            before = now
        assert before is not None
        before.block_until_ready()

    return timed(run, runs)[0], {}


def torch_search(train: str, test: str, k: int, dtype: str, runs: int) -> tuple:
    """matmul and topk on the card, block by block, lists merged as they come."""
    import torch

    a, b = _open(train, False), _open(test, True)
    torch.backends.cuda.matmul.allow_tf32 = False
    kind = getattr(torch, dtype)
    tests = torch.from_numpy(np.asarray(b, np.float32)).cuda().to(kind)
    rows = 8 * BLOCK_ROWS

    def run() -> None:
        values = torch.full((len(b), 0), 0.0, device="cuda", dtype=kind)
        indices = torch.zeros((len(b), 0), device="cuda", dtype=torch.int64)
        for start in range(0, len(a), rows):
            block = a[start : start + rows].view(np.uint16).view(np.int16)
            here = torch.from_numpy(block).cuda().view(torch.bfloat16).to(kind)
            best, at = (tests @ here.T).topk(min(k, len(here)))
            length = min(k, values.shape[1] + at.shape[1])
            values, place = torch.cat([values, best], 1).topk(length)
            indices = torch.cat([indices, at + start], 1).gather(1, place)
        torch.cuda.synchronize()

    return timed(run, runs)[0], {}


def card_rate(dtype: str) -> tuple:
    """Products a second of a large square on the card, in `dtype` at highest precision."""
    side, many = 8192, 20
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.float32).astype(dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))
    product(x, x).block_until_ready()

    def run() -> None:
        for _ in range(many):
            y = product(x, x)
        y.block_until_ready()

    seconds, _ = timed(run, 3)
    return seconds, {"flops": 2 * side**3 * many / seconds}


def has_card() -> tuple:
    """Whether JAX and torch both find a GPU."""
    try:
        import torch

        return 0.0, {"found": jax.default_backend() == "gpu" and torch.cuda.is_available()}
    except ImportError:
        return 0.0, {"found": False}


def _open(path: str, in_memory: bool) -> Embeddings:
    """Rows of a file; on disk they are read anew, not from what the system kept in memory."""
    content = np.load(path, mmap_mode="r")
    dtype = jnp.bfloat16 if content.dtype == np.uint16 else content.dtype
    rows = StoredEmbeddings([(Path(path), len(content))], content.shape[1], np.dtype(dtype))
    if in_memory:
        return rows[:]
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(file)
    return rows


def _digest(*arrays: np.ndarray) -> str:
    parts = [np.ascontiguousarray(a).tobytes() for a in arrays]
    return hashlib.sha256(b"".join(parts)).hexdigest()


if __name__ == "__main__":
    seconds, result = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"seconds": seconds, "peak": peak_memory(), "result": result}))
