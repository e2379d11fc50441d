"""A workdir in a bucket: a folder of this machine to work in, of which the bucket has a copy.

A study needs locks, renames and appended lines, which object stores lack. So each machine works in
a folder of its own cache. What is new there goes up whenever processes wait for one another, and
what others have made comes down. A killed upload leaves a list of what it was about to add; the
next start drops that, so that nobody goes on from half of a folder.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from zsg_jax.bucket.store import Object, Store
from zsg_jax.durable import PARTIAL, read_json, write_json
from zsg_jax.errors import UserError, check
from zsg_jax.processes import is_first
from zsg_jax.progress import count, say

# What this module keeps for itself, here and in the bucket.
OWN = ".zsg_jax"
SESSION = f"{OWN}/session.json"
_RECORD = f"{OWN}/record.json"
_INCOMING = f"{OWN}/incoming"
_PUSHING = f"{OWN}/pushing-"

Stat = tuple[int, int]  # bytes, nanoseconds of the last change


class Mirror:
    """One folder here and the objects below one address, kept equal.

    Attributes:
        address: gs://BUCKET/PATH or s3://BUCKET/PATH.
        folder: of this machine, the same for all its processes.
    """

    def __init__(self, address: str, *, marker: str, leave: Callable[[str], bool]) -> None:
        """Touches neither the bucket nor the disk yet.

        Args:
            address: of the workdir.
            marker: a file that every workdir has; without it, objects there are somebody else's.
            leave: whether a file or an object of this name is no business of the mirror's.

        Raises:
            UserError: as `Store`.
        """
        self._store = Store(address)
        self.address = self._store.address
        self.folder = _folder(self.address)
        self._marker, self._leave = marker, leave
        self._session: str | None = None

    def open(self) -> None:
        """Makes the folder what the bucket holds; for the first process, once the folder is locked.

        Files that a process here had made and could not upload are kept, unless a study has begun
        on another machine since.

        Raises:
            UserError: what lies there is no workdir, or as `Store`.
        """
        with self._alone():
            listing = self._store.list()
            theirs = {name for name in listing if not self._skipped(name)}
            check(
                not theirs or self._marker in theirs,
                f"--workdir {self.address}: holds objects but no {self._marker}; give an empty or "
                "a new place",
            )
            dropped = self._drop_unfinished(listing)
            before = (_json(self._store.read(SESSION)) or {}).get("session")
            record = self._record()
            session = uuid.uuid4().hex
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            mine = {"session": session, "host": socket.gethostname(), "since": since}
            self._store.write(SESSION, f"{json.dumps(mine)}\n".encode())
            listing = {name: one for name, one in listing.items() if name not in dropped}
            fetched = self._take(listing, record, ours=before == record["session"])
            self._enter(record, session)
        size = sum(listing[name].size for name in fetched)
        what = f"; {count(len(fetched), 'file')} fetched, {size / 1e6:,.1f} MB" if fetched else ""
        say(f"{self.address}: its files here are in {self.folder}{what}")

    def push(self) -> None:
        """Uploads what has changed here since it was uploaded last, and deletes what is gone.

        Raises:
            UserError: another study has begun there since `open`, or as `Store`.
        """
        if self._session is None:
            return
        with self._alone():
            record, found = self._record(), self._local()
            known = record["files"]
            changed = [name for name in found if known.get(name, [])[:2] != list(found[name])]
            gone = [name for name in known if name not in found]
            if not changed and not gone:
                return
            self._check_session()
            new = [name for name in changed if name not in known]
            journal = f"{_PUSHING}{jax.process_index()}.json"
            if new:
                self._store.write(journal, json.dumps(new).encode())
            self._save(record | {"pushing": changed})
            self._store.upload(self.folder, changed)
            listing = self._store.list()
            for name in changed:
                check(name in listing, f"{self.address}/{name}: is not there after its upload")
                known[name] = [*found[name], listing[name].version]
            # While the list of what was about to be added stands, a start may undo it.
            self._save(record | {"pushing": changed})
            self._store.delete(
                [name for name in (*([journal] if new else []), *gone) if name in listing]
            )
            for name in gone:
                del known[name]
            self._save(record | {"pushing": []})

    def pull(self) -> None:
        """Makes the folder what the bucket holds, all processes having pushed what they made."""
        with self._alone():
            record = self._record()
            session = self._session or (_json(self._store.read(SESSION)) or {}).get("session", "")
            self._take(self._store.list(), record, ours=record["session"] == session)
            self._enter(record, session)

    def _enter(self, record: dict[str, Any], session: str) -> None:
        self._save(record | {"session": session, "pushing": []})
        self._session = session

    def _check_session(self) -> None:
        """A study that goes on elsewhere must not be disturbed by the one it went on from."""
        if not is_first():
            return
        now = _json(self._store.read(SESSION)) or {}
        if now.get("session") != self._session:
            raise UserError(
                f"--workdir {self.address}: {now.get('host')} has gone on with it since "
                f"{now.get('since')}; this process ends, and what it made since is not uploaded"
            )

    def _drop_unfinished(self, listing: dict[str, Object]) -> set[str]:
        """Deletes what a killed upload had added, of which parts may be missing."""
        journals = [name for name in listing if name.startswith(_PUSHING)]
        dropped = set(journals)
        for journal in journals:
            dropped.update(
                name for name in _json(self._store.read(journal)) or () if name in listing
            )
        # The lists go last, or a kill in between would leave the rest unknown.
        self._store.delete(sorted(dropped.difference(journals)))
        self._store.delete(journals)
        return dropped

    def _take(self, listing: dict[str, Object], record: dict[str, Any], *, ours: bool) -> list[str]:
        """Downloads what is new or changed there, deletes what is gone; gives what it downloaded.

        Args:
            listing: of the bucket.
            record: changed to tell of what is here afterwards.
            ours: nobody but this machine has begun a study there since `record`, so that what
                differs here is newer.
        """
        known, found = record["files"], self._local()
        newer = set(record["pushing"]) if ours else set()
        wanted, unwanted = [], []
        for name in sorted(found.keys() | known.keys() | listing.keys()):
            if self._skipped(name):
                continue
            there, here, last = listing.get(name), found.get(name), known.get(name)
            same_there = there is not None and last is not None and last[2] == there.version
            same_here = here is not None and last is not None and last[:2] == list(here)
            if there is None:
                kept = here is not None and ours and (last is None or name in newer)
                known.pop(name, None)
                if here is not None and not kept:
                    unwanted.append(name)
            elif same_there and (same_here or (here is not None and ours)):
                pass
            elif not same_there and here is not None and name in newer:
                known.pop(name, None)
            else:
                wanted.append(name)
        for name in unwanted:
            self._remove(self.folder / name)
        incoming = self.folder / _INCOMING
        shutil.rmtree(incoming, ignore_errors=True)
        self._store.download(incoming, wanted)
        for name in wanted:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (incoming / name).replace(target)
            known[name] = [*_stat(target), listing[name].version]
        shutil.rmtree(incoming, ignore_errors=True)
        return wanted

    def _remove(self, path: Path) -> None:
        path.unlink()
        for parent in path.parents:
            if parent == self.folder or any(parent.iterdir()):
                break
            parent.rmdir()

    def _local(self) -> dict[str, Stat]:
        """The files here, by name."""
        found = {}
        for folder, _, files in os.walk(self.folder):
            for file in files:
                path = Path(folder, file)
                name = path.relative_to(self.folder).as_posix()
                if not self._skipped(name):
                    found[name] = _stat(path)
        return found

    def _skipped(self, name: str) -> bool:
        parts = name.split("/")
        return parts[0] == OWN or any(part.endswith(PARTIAL) for part in parts) or self._leave(name)

    def _record(self) -> dict[str, Any]:
        known = read_json(self.folder / _RECORD, ("session", "files", "pushing"))
        return known or {"session": None, "files": {}, "pushing": []}

    def _save(self, record: dict[str, Any]) -> None:
        write_json(self.folder / _RECORD, record)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes of this machine from the folder and its record meanwhile."""
        (self.folder / OWN).mkdir(parents=True, exist_ok=True)
        with (self.folder / OWN / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _folder(address: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    plain = re.sub(r"[^\w.-]+", "-", address)[-80:]
    name = f"{plain}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
    return cache.absolute() / "zsg_jax" / "workdirs" / name


def _stat(path: Path) -> Stat:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _json(content: bytes | None) -> Any:
    """What an object of this module's own holds; a damaged one tells as much as none."""
    try:
        return json.loads(content) if content is not None else None
    except ValueError:
        return None
