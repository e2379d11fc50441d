"""Embeddings on disk: made once, in shards that survive a killed run."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.runtime.errors import check
from zsg_jax.runtime.progress import bar
from zsg_jax.runtime.shards import Shards
from zsg_jax.similarity.embeddings import StoredEmbeddings, file_dtype
from zsg_jax.similarity.encoders.registry import Encoder
from zsg_jax.similarity.names import DTYPES

FORMAT = 1
# Numbers of a shard, which is held in memory: 4,096 embeddings of up to so many columns.
SHARD_NUMBERS = 4096 * 4096


def embed(
    texts: Iterable[str],
    encoder: Encoder,
    folder: Path,
    *,
    dtype: str = "float32",
    shard_rows: int | None = None,
    description: str = "embedding",
    on_shard: Callable[[], object] = lambda: None,
) -> StoredEmbeddings:
    """Embeds texts, keeping every `shard_rows` embeddings on disk as soon as they are computed.

    `folder` holds `00000.npy`, `00001.npy`, … and `manifest.json`, which tells of each shard its
    range, its SHA-256 and that of its texts, by what encoder and in what dtype it was made. A shard
    for which all of that agrees is read, every other one is computed (again), so a killed run goes
    on after its last whole shard and texts added at the end leave full shards alone. Several
    processes share the shards; `folder` must be on a file system that all see. Shards of bfloat16
    are uint16 files, since NumPy's know no such dtype.

    Args:
        texts: N strings, of which no more than `shard_rows` are held at a time.
        encoder: gives the embeddings.
        folder: created when missing; one for each set of texts.
        dtype: "float32", or "bfloat16" for half the disk. Cosines are computed in float32 on what
            is stored, so the rounding (1 part in 256) may change an order.
        shard_rows: embeddings of a shard; less is lost on a kill, more files are written. None:
            4,096, or fewer where they would take more than `SHARD_NUMBERS`.
        description: the progress bar's label.
        on_shard: called whenever this process has written a shard.

    Returns:
        (N, dimension) of `dtype`, on disk.

    Raises:
        UserError: an unknown dtype; the encoder gave a NaN or an infinity, or another shape.
    """
    check(dtype in DTYPES, f"dtype={dtype!r}: embeddings are kept in {' or '.join(DTYPES)}")
    if shard_rows is None:
        shard_rows = max(1, min(4096, SHARD_NUMBERS // encoder.dimension))
    check(shard_rows >= 1, f"shard_rows={shard_rows}: it must be at least 1")
    folder = Path(folder)
    total = len(texts) if isinstance(texts, Sized) else None
    head = {
        "format": FORMAT,
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dimension": encoder.dimension,
        "dtype": np.dtype(dtype).name,
    }
    shards = Shards(folder, head, shared=True)
    files, stop = [], 0
    with bar(total, description) as progress:
        for number, chunk in enumerate(_chunks(texts, shard_rows)):
            start, stop = stop, stop + len(chunk)
            entry: dict[str, Any] = {"file": f"{number:05d}.npy", "start": start, "stop": stop}
            files.append((folder / entry["file"], len(chunk)))
            if shards.assigned(number):
                entry["texts_sha256"] = _texts_digest(chunk)
                if shards.find(entry) is None:
                    rows = _checked(encoder.encode(chunk, progress.update), encoder, entry)
                    rows = rows.astype(np.dtype(dtype))
                    with shards.writing(entry) as path, path.open("wb") as file:
                        np.save(file, rows.view(file_dtype(rows.dtype)), allow_pickle=False)
                    on_shard()
                    continue
            progress.update(len(chunk))
    shards.finish(rows=stop)
    return StoredEmbeddings(files, encoder.dimension, np.dtype(dtype))


def _chunks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = iter(texts)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk


def _texts_digest(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        # surrogatepass: half a pair from broken JSON is still a text to tell from others.
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def _checked(rows: np.ndarray, encoder: Encoder, entry: dict[str, Any]) -> np.ndarray:
    rows = np.asarray(rows, np.float32)
    shape = (entry["stop"] - entry["start"], encoder.dimension)
    check(rows.shape == shape, f"encoder {encoder.name}: gave {rows.shape} instead of {shape}")
    finite = np.isfinite(rows).all(axis=1)
    worst = entry["start"] + int(np.argmin(finite))
    check(bool(finite.all()), f"encoder {encoder.name}: row {worst} holds a NaN or an infinity")
    return rows
