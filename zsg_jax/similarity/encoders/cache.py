"""Embeddings kept by content in a folder that studies share: no text is embedded there twice.

Below the folder every encoder has one of its own for each kind of machine, which decides the last
digits. Its files hold embeddings and the digests of their texts; each is named by its own SHA-256
and never changed, so that several processes may add to it at once, and all may be deleted.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from zsg_jax.runtime.files import PARTIAL, at_home, file_digest, load_npy, stamp, sweep, sync
from zsg_jax.runtime.progress import say
from zsg_jax.similarity.encoders.registry import Encoder

FORMAT = 1


class CachedEncoder:
    """An encoder that embeds what the cache does not hold yet.

    Attributes:
        name, dimension, fingerprint, prompts, default_prompt, conversations: the encoder's own.
    """

    def __init__(self, encoder: Encoder, folder: str | Path) -> None:
        """Takes an encoder, and the folder, which is made and read once it is needed."""
        self._encoder = encoder
        self.name, self.dimension = encoder.name, encoder.dimension
        self.fingerprint = encoder.fingerprint
        self.prompts, self.default_prompt = encoder.prompts, encoder.default_prompt
        self.conversations = encoder.conversations
        self._head = {
            "format": FORMAT,
            "encoder": encoder.name,
            "fingerprint": encoder.fingerprint,
            "dimension": encoder.dimension,
            "machine": [jax.default_backend(), jax.devices()[0].device_kind, jax.__version__],
            "cores": len(os.sched_getaffinity(0)),
        }
        place = hashlib.sha256(json.dumps(self._head).encode()).hexdigest()[:32]
        self._folder = at_home(folder) / "embeddings" / place
        self._dtype = np.dtype([("key", "<u8", 2), ("row", "<f4", encoder.dimension)])
        self._paths, self._opened = list[Path](), False
        self._stamps = list[tuple[int, ...] | None]()  # of files that were found whole
        # Of every embedding its text's digest, in the order of the first half, and the number of
        # its file and of the embedding there.
        self._keys, self._places = np.empty((0, 2), np.uint64), np.empty((0, 2), np.int64)

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """(n, dimension) float32, as the encoder gives them."""
        if not self._opened:
            self._open()
        numbers: dict[bytes, int] = {}
        which = [numbers.setdefault(_digest(text), len(numbers)) for text in texts]
        different = dict(zip(which, texts, strict=True))
        keys = np.frombuffer(b"".join(numbers), "<u8").reshape(-1, 2)
        rows = np.empty((len(keys), self.dimension), np.float32)
        missing = self._fill(rows, keys)
        if on_progress is not None:
            on_progress(len(texts) - len(missing))
        if len(missing):
            wanted = [different[number] for number in missing]
            rows[missing] = self._encoder.encode(wanted, on_progress)
            # What is no number is refused by who asked.
            if np.isfinite(rows[missing]).all():
                self._add(keys[missing], rows[missing])
        return rows[which]

    def _fill(self, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Reads the rows that are there; the numbers of the others."""
        at = np.searchsorted(self._keys[:, 0], keys[:, 0])
        there = at < len(self._keys)
        there[there] = (self._keys[at[there]] == keys[there]).all(axis=1)
        found = np.flatnonzero(there)
        places = self._places[at[found]]
        for number in np.unique(places[:, 0]):
            here = places[:, 0] == number
            content = self._load(number)
            if content is None:
                there[found[here]] = False
            else:
                rows[found[here]] = content["row"][places[here, 1]]
        return np.flatnonzero(~there)

    def _load(self, number: int) -> np.ndarray | None:
        """The content of a file; None: it was deleted, or written over, since it was whole."""
        path = self._paths[number]
        try:
            if stamp(path) == self._stamps[number]:
                return load_npy(path)
        except (OSError, ValueError, EOFError):
            pass
        return None

    def _open(self) -> None:
        """Takes in the files that are whole."""
        self._opened = True
        sweep(self._folder)
        for path in sorted(self._folder.glob("*.npy")):
            content, found = None, stamp(path)
            try:
                if file_digest(path) == path.stem:
                    content = load_npy(path)
            except FileNotFoundError:
                continue  # it was deleted meanwhile
            if content is None or content.dtype != self._dtype:
                say(f"{path}: is damaged; it is left out, and its texts are embedded again")
                path.unlink(missing_ok=True)
                continue
            self._know(path, np.array(content["key"]), found)

    def _know(self, path: Path, keys: np.ndarray, found: tuple[int, ...] | None) -> None:
        file = len(self._paths)
        self._paths.append(path)
        self._stamps.append(found)
        order = np.argsort(keys[:, 0])
        at = np.searchsorted(self._keys[:, 0], keys[order, 0])
        places = np.stack([np.full(len(keys), file), order], axis=1)
        self._keys = np.insert(self._keys, at, keys[order], axis=0)
        self._places = np.insert(self._places, at, places, axis=0)

    def _add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Keeps embeddings; where that fails, the study goes on without."""
        content = np.empty(len(keys), self._dtype)
        content["key"], content["row"] = keys, rows
        try:
            path = self._write(content)
        except OSError as error:
            say(f"{self._folder}: takes no embeddings: {error.strerror}; they are not shared")
            return
        self._know(path, keys, stamp(path))

    def _write(self, content: np.ndarray) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        told = self._folder / "cache.json"
        if not told.exists():
            told.write_text(json.dumps(self._head, indent=1) + "\n")
        # Of a name that no other process gives, even where it writes the same.
        with tempfile.TemporaryDirectory(dir=self._folder, suffix=PARTIAL) as beside:
            partial = Path(beside) / "file.npy"
            np.save(partial, content, allow_pickle=False)
            sync(partial)
            return partial.replace(self._folder / f"{file_digest(partial)}.npy")


def _digest(text: str) -> bytes:
    # surrogatepass: half a pair from broken JSON is still a text to tell from others.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]
