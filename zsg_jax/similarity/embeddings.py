"""Embeddings on disk: made once, in shards that survive a killed run and betray damage."""

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterable, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import need_json, npy_bytes, write_bytes
from zsg_jax.runtime.processes import is_first, keep, wait_for_all
from zsg_jax.runtime.progress import bar, say
from zsg_jax.similarity.stored import StoredRows, file_dtype

FORMAT = 1
DTYPES = ("float32", "bfloat16")
MANIFEST = "manifest.json"


class Encoder(Protocol):
    """What turns texts into rows; see `hashing.HashingEncoder` for the attributes' meaning."""

    name: str
    dimension: int
    fingerprint: str

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """(n, dimension) float32 unit rows, each a function of its own text."""


def embed(
    texts: Iterable[str],
    encoder: Encoder,
    folder: Path,
    *,
    dtype: str = "float32",
    total: int | None = None,
    shard_rows: int = 4096,
    description: str = "embedding",
) -> StoredRows:
    """Embeds texts, keeping every `shard_rows` rows on disk as soon as they are computed.

    `folder` holds `00000.npy`, `00001.npy`, … and `manifest.json`, which tells of each shard its
    rows, its SHA-256 and that of its texts, by what encoder and in what dtype they were made, and
    how many `rows` the texts of the last call have. A shard for which all of that agrees is read,
    every other one is computed (again), so a killed run goes on after its last whole shard and rows
    added at the end leave full shards alone. Of several processes each computes every so-manieth
    shard, and the first one joins what they made; `folder` must be on a file system that all see.

    NumPy's files know no bfloat16: such shards are uint16 files, and `StoredRows` tells the dtype.

    Args:
        texts: N strings, of which no more than `shard_rows` are held at a time.
        encoder: gives the rows.
        folder: created when missing; one for each set of texts.
        dtype: "float32", or "bfloat16" for half the disk. Cosines are computed in float32 on what
            is stored, so the rounding (1 part in 256) may change an order.
        total: N, if the texts cannot tell it themselves; for the progress bar alone.
        shard_rows: rows of a shard; less is lost on a kill, more files are written.
        description: the progress bar's label.

    Returns:
        (N, dimension) of `dtype`, on disk.

    Raises:
        UserError: an unknown dtype; the encoder gave a NaN or an infinity, or rows of another
            width.
    """
    check(dtype in DTYPES, f"dtype={dtype!r}: embeddings are kept in {' or '.join(DTYPES)}")
    check(shard_rows >= 1, f"shard_rows={shard_rows}: it must be at least 1")
    folder = Path(folder)
    if total is None and isinstance(texts, Sized):
        total = len(texts)
    head = {
        "format": FORMAT,
        "encoder": encoder.name,
        "fingerprint": encoder.fingerprint,
        "dimension": encoder.dimension,
        "dtype": np.dtype(dtype).name,
    }
    folder.mkdir(parents=True, exist_ok=True)
    shards, others, rows = _embed(texts, encoder, folder, head, shard_rows, description, total)
    if jax.process_count() == 1:
        _finish(folder, head, shards, others, rows)
    else:
        _write_manifest(folder / _part(jax.process_index()), head, shards, rows)
        wait_for_all(f"embedded {folder.name}")
        if is_first():
            parts = [folder / _part(number) for number in range(jax.process_count())]
            made = [shard for part in parts for shard in need_json(part, ("shards",))["shards"]]
            _finish(folder, head, sorted(made, key=lambda shard: shard["start"]), others, rows)
        wait_for_all(f"joined {folder.name}")
    return _stored(folder)


def _stored(folder: Path) -> StoredRows:
    manifest = need_json(folder / MANIFEST, ("dimension", "dtype", "rows", "shards"))
    files, end = [], 0
    for shard in manifest["shards"]:
        # Behind the rows of these texts may stand shards of others, or of another size.
        if shard["start"] != end or shard["stop"] > manifest["rows"]:
            break
        end = shard["stop"]
        files.append((folder / shard["file"], end - shard["start"]))
    check(end == manifest["rows"], f"{folder / MANIFEST}: shards are missing; delete {folder}")
    return StoredRows(files, manifest["dimension"], np.dtype(manifest["dtype"]))


def _embed(
    texts: Iterable[str],
    encoder: Encoder,
    folder: Path,
    head: dict[str, Any],
    shard_rows: int,
    description: str,
    total: int | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Makes this process's shards; gives them, all that was known before, and the rows in all."""
    known = _known_shards(folder, head)
    index, count = jax.process_index(), jax.process_count()
    own = folder / (MANIFEST if count == 1 else _part(index))
    shards: list[dict[str, Any]] = []
    remaining, start = iter(texts), 0
    with bar(total, description) as progress:
        for number in itertools.count():
            chunk = list(islice(remaining, shard_rows))
            if not chunk:
                break
            stop = start + len(chunk)
            if number % count == index:
                entry: dict[str, Any] = {
                    "file": f"{number:05d}.npy",
                    "start": start,
                    "stop": stop,
                    "texts_sha256": _texts_digest(chunk),
                }
                before = known.get(entry["file"], {})
                if _is_whole(folder / entry["file"], entry, before, encoder.dimension):
                    entry["sha256"] = before["sha256"]
                    progress.update(len(chunk))
                else:
                    rows = _checked(encoder.encode(chunk, progress.update), encoder, entry)
                    entry["sha256"] = _write_shard(folder / entry["file"], rows, head["dtype"])
                    # What was known of other shards stays so, or a kill would lose it.
                    made = {shard["file"] for shard in (*shards, entry)}
                    others = [shard for name, shard in known.items() if name not in made]
                    _write_manifest(own, head, [*shards, entry, *others], stop)
                    keep()
                shards.append(entry)
            else:
                progress.update(len(chunk))
            start = stop
    return shards, list(known.values()), start


def _part(process: int | str) -> str:
    """What one of several processes knows while they are at it."""
    return f"manifest.{process}.json"


def _finish(
    folder: Path,
    head: dict[str, Any],
    shards: list[dict[str, Any]],
    known: list[dict[str, Any]],
    rows: int,
) -> None:
    """Writes the manifest of all shards, behind which those of more rows stay known."""
    later = [one for one in known if not shards or one["file"] > shards[-1]["file"]]
    _write_manifest(folder / MANIFEST, head, [*shards, *later], rows)
    for part in folder.glob(_part("*")):
        part.unlink()


def _write_shard(path: Path, rows: np.ndarray, dtype: str) -> str:
    stored = rows.astype(np.dtype(dtype))
    content = npy_bytes(stored.view(file_dtype(stored.dtype)))
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def _is_whole(path: Path, entry: dict[str, Any], known: dict[str, Any], dimension: int) -> bool:
    """Whether the shard needs no computing; tells what is wrong with one that is damaged."""
    if any(known.get(key) != value for key, value in entry.items()):
        return False
    if not path.is_file():
        say(f"{path}: listed in {MANIFEST} but missing; computed again")
        return False
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != known.get("sha256"):
        say(f"{path}: damaged, its checksum differs from {MANIFEST}; computed again")
        return False
    rows = np.load(io.BytesIO(content), allow_pickle=False)
    return rows.shape == (entry["stop"] - entry["start"], dimension)


def _known_shards(folder: Path, head: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the manifest tells of each file, and those that a killed run of several left behind."""
    known: dict[str, dict[str, Any]] = {}
    for path in (folder / MANIFEST, *sorted(folder.glob(_part("*")))):
        known |= _known_to(path, head)
    return dict(sorted(known.items()))


def _known_to(path: Path, head: dict[str, Any]) -> dict[str, dict[str, Any]]:
    try:
        manifest = json.loads(path.read_bytes())
        known = {shard["file"]: shard for shard in manifest["shards"]}
        if not all(isinstance(name, str) for name in known):
            raise ValueError("a shard without a file name")
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        say(f"{path}: damaged ({error}); all embeddings are computed again")
        return {}
    if any(manifest.get(key) != value for key, value in head.items()):
        say(f"{path}: made by another encoder or in another dtype; all is computed again")
        return {}
    return known


def _write_manifest(
    path: Path, head: dict[str, Any], shards: list[dict[str, Any]], rows: int
) -> None:
    content = {**head, "rows": rows, "shards": shards}
    text = json.dumps(content, indent=1) + "\n"
    if not path.is_file() or path.read_text() != text:
        write_bytes(path, text.encode())


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
