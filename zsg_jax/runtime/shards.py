"""Shards on disk: each with its SHA-256 in a manifest, so that a killed run goes on where it was.

A shard is a file, or a folder of files, that is written whole and then listed in the manifest of
its folder: `{**head, "shards": [{"file": NAME, "sha256": DIGEST, …}, …]}`, where a shard that is a
folder has `"folder": NAME` and a digest for each of its files. `head` tells what the shards are
made of; under another head none of them counts.

Several processes share the shards of one folder: each writes every count-th of them and keeps a
manifest of its own, `manifest.INDEX.json`, which the first one joins at the end.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zsg_jax.runtime import processes
from zsg_jax.runtime.files import (
    PARTIAL,
    at_home,
    file_digest,
    json_bytes,
    remove,
    replacing,
    sweep,
    write_bytes,
)
from zsg_jax.runtime.processes import keep, wait_for_all
from zsg_jax.runtime.progress import say

MANIFEST = "manifest.json"
Entry = dict[str, Any]


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder`, by its path from there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in files
        if not path.name.endswith(PARTIAL)
    }


def damage(expected: Mapping[str, str], digest: Callable[[str], str]) -> str | None:
    """What is wrong with the first file that is not as it was written, or None.

    Args:
        expected: the digests of files, by their names.
        digest: gives that of a file; FileNotFoundError: there is none.
    """
    for name, known in expected.items():
        try:
            if digest(name) != known:
                return f"{name} does not have the checksum it was written with"
        except FileNotFoundError:
            return f"{name} is missing"
    return None


class Shards:
    """The shards of a folder: which of them are there whole, and how others come to be."""

    def __init__(
        self,
        folder: Path,
        head: Mapping[str, Any],
        *,
        manifest: str = MANIFEST,
        shared: bool = False,
    ) -> None:
        """Reads the manifest; one that is damaged, or of another head, is named and void.

        Args:
            folder: created when missing.
            head: what all shards are made of, JSON-ready.
            manifest: the name of the manifest.
            shared: whether all processes come here, each for its share.
        """
        self._folder, self._head, self._manifest = Path(folder), dict(head), manifest
        self._folder.mkdir(parents=True, exist_ok=True)
        self._index, self._count = 0, 1
        if shared:
            self._index, self._count = processes.index(), processes.count()
        self._known: dict[str, Entry] = {}
        for path in (self._folder / manifest, *self._parts()):
            self._known |= self._read(path)
        self._current: dict[str, Entry] = {}

    def assigned(self, number: int) -> bool:
        """Whether it is this process that sees to the shard of this number."""
        return number % self._count == self._index

    def find(self, expected: Entry) -> Entry | None:
        """The entry of a shard that is there whole; what is damaged is named.

        Args:
            expected: what the entry must hold, the name of its file or folder first of all.
        """
        known = self._known.get(_name(expected))
        if known is None or any(known.get(key) != value for key, value in expected.items()):
            return None
        problem = damage(_files(known), lambda name: file_digest(self._folder / name))
        if problem is not None:
            say(f"{self._folder}/{problem}; it is made again")
            return None
        self._current[_name(known)] = known
        return known

    @contextmanager
    def writing(self, entry: Entry) -> Iterator[Path]:
        """Gives a path to write a shard to, which is then put in place and listed.

        Args:
            entry: what the manifest tells of it; it may still be added to inside. Its digests are
                added at the end.
        """
        with replacing(self._folder / _name(entry)) as partial:
            yield partial
            entry["sha256"] = digests(partial) if partial.is_dir() else file_digest(partial)
        self._current[_name(entry)] = entry
        # What was known of other shards stays so, or a kill would lose it.
        own = self._manifest if self._count == 1 else self._part(self._index)
        self._write(own, self._known | self._current)
        keep()

    def finish(self, *, prune: bool = False, **facts: Any) -> None:
        """Writes the manifest of all shards, with what is known of others behind them.

        Args:
            prune: deletes whatever else lies in the folder.
            facts: what the manifest tells besides the head.
        """
        if self._count > 1:
            self._write(self._part(self._index), self._current)
            wait_for_all(f"shards of {self._folder.name}")
        if self._index == 0:
            for index in range(self._count if self._count > 1 else 0):
                self._current |= self._read(self._folder / self._part(index))
            shards = self._known | self._current
            self._write(self._manifest, shards, **facts)
            for path in self._folder.iterdir() if prune else self._parts():
                if path.name not in (*shards, self._manifest):
                    remove(path)
        if self._count > 1:
            wait_for_all(f"joined {self._folder.name}")

    def _part(self, index: int | str) -> str:
        name = Path(self._manifest)
        return f"{name.stem}.{index}{name.suffix}"

    def _parts(self) -> list[Path]:
        """What each of several processes knows while they are at it."""
        return sorted(self._folder.glob(self._part("*")))

    def _read(self, path: Path) -> dict[str, Entry]:
        try:
            content = json.loads(path.read_bytes())
            known = {_name(entry): entry for entry in content["shards"] if _files(entry)}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            say(f"{path}: is damaged ({type(error).__name__}: {error}); all of it is made again")
            return {}
        changed = [key for key, value in self._head.items() if content.get(key) != value]
        if changed:
            say(f"{path}: was made of something else ({', '.join(changed)}); all is made again")
            return {}
        return known

    def _write(self, name: str, shards: Mapping[str, Entry], **facts: Any) -> None:
        in_order = sorted(shards, key=lambda shard: (len(shard), shard))
        content = {**self._head, **facts, "shards": [shards[shard] for shard in in_order]}
        path = self._folder / name
        text = json_bytes(content)
        if not path.is_file() or path.read_bytes() != text:
            write_bytes(path, text)


class Shared:
    """Whole folders of shards that studies share, each by what its shards are made of."""

    def __init__(self, cache: str | Path, kind: str, head: Mapping[str, Any]) -> None:
        """Takes the folder of all, what is kept, and the head of its manifest."""
        name = hashlib.sha256(json_bytes(dict(head))).hexdigest()[:32]
        self._kept = at_home(cache) / kind / name

    def fetch(self, folder: Path) -> None:
        """Copies what is kept to a folder without a manifest, whose shards are then checked."""
        if (self._kept / MANIFEST).exists() and not (folder / MANIFEST).exists():
            # Another process may put another there meanwhile.
            with suppress(OSError), replacing(folder) as partial:
                shutil.copytree(self._kept, partial)

    def offer(self, folder: Path) -> None:
        """Keeps a copy of a finished folder; where that fails, the study goes on without."""
        try:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            sweep(self._kept.parent)
            # Of a name that no other process gives.
            with tempfile.TemporaryDirectory(dir=self._kept.parent, suffix=PARTIAL) as beside:
                whole = shutil.copytree(folder, Path(beside) / self._kept.name)
                remove(self._kept)
                whole.rename(self._kept)
        except OSError as error:
            if not self._kept.exists():
                say(f"{self._kept}: takes nothing: {error.strerror or error}; it is not shared")


def _name(entry: Entry) -> str:
    return entry["file"] if "file" in entry else entry["folder"]


def _files(entry: Entry) -> dict[str, str]:
    """The digest of each file of a shard, by its path."""
    name, known = _name(entry), entry["sha256"]
    if not isinstance(name, str):
        raise ValueError(f"{name!r} is no file's name")
    if isinstance(known, str):
        return {name: known}
    return {f"{name}/{file}": digest for file, digest in known.items()}
