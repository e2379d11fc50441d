"""A workdir in a bucket: a folder of this machine to work in, of which the bucket has a copy.

A study needs locks, renames and appended lines, which object stores lack. So each machine works in
a folder of its own cache. What is new there goes up whenever processes wait for one another, and
what others have made comes down. A killed upload leaves a list of what it was about to add; the
next start drops that, so that nobody goes on from half of a folder. Each start leaves its session
in the bucket; a study that finds another one there has been taken over, and ends.
"""

import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from zsg_jax.runtime.buckets import Object, Store
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import PARTIAL, read_json, write_json
from zsg_jax.runtime.processes import is_first
from zsg_jax.runtime.progress import count, say

# What this module keeps for itself, here and in the bucket.
OWN = ".zsg_jax"
SESSION = f"{OWN}/session.json"
_RECORD = f"{OWN}/record.json"
_INCOMING = f"{OWN}/incoming"
_PUSHING = f"{OWN}/pushing-"
# Seconds between uploads that nobody waits for; stores dislike one name written again and again.
_SPARING = 30

Stat = tuple[int, int]  # bytes, nanoseconds of the last change


class Mirror:
    """One folder here and the objects below one address, kept equal.

    Its record tells of the folder: `session`, the last one it was part of, and `opening`, one that
    it was about to begin; `files`, of each the size, time and version that are the same in the
    bucket; `pushing`, those whose upload may not be over.

    Attributes:
        address: gs://BUCKET/PATH or s3://BUCKET/PATH.
        folder: of this machine, the same for all its processes.
        pushes: whether this process uploads what is in the folder; one of each machine does.
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
        self.pushes = True
        self._marker, self._leave = marker, leave
        self._session: str | None = None
        self._pushed = -math.inf

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
            record, last = self._record(), self._last_session()
            if last.get("session") not in (record["session"], record["opening"]):
                self._forget(record)
            new = uuid.uuid4().hex
            # A start that does not get further is nobody else's.
            self._save(record | {"opening": new})
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            told = {"session": new, "host": socket.gethostname(), "since": since}
            content = json.dumps(told | {"before": last.get("session")})
            self._store.write(SESSION, f"{content}\n".encode())
            listing = {name: one for name, one in listing.items() if name not in dropped}
            fetched = self._take(listing, record)
            self._enter(record, new)
        size = sum(listing[name].size for name in fetched)
        what = f"; {count(len(fetched), 'file')} fetched, {size / 1e6:,.1f} MB" if fetched else ""
        say(f"{self.address}: its files here are in {self.folder}{what}")

    def check(self) -> None:
        """Makes sure that no other study has begun there since `open`.

        A study that goes on elsewhere must not be disturbed by the one it went on from.

        Raises:
            UserError: one has, and when.
        """
        if self._session is None or not is_first():
            return
        now = self._last_session()
        if now.get("session") != self._session:
            raise UserError(
                f"--workdir {self.address}: {now.get('host')} has gone on with it since "
                f"{now.get('since')}; this process ends, and what it made since is not uploaded"
            )

    def push(self, *, sparing: bool = False) -> None:
        """Uploads what has changed here since it was uploaded last, and deletes what is gone.

        Args:
            sparing: not if that was a moment ago.

        Raises:
            UserError: as `check`, or as `Store`.
        """
        early = sparing and time.monotonic() - self._pushed < _SPARING
        if self._session is None or not self.pushes or early:
            return
        with self._alone():
            record, found = self._record(), self._local()
            known = record["files"]
            changed = [name for name in found if known.get(name, [])[:2] != list(found[name])]
            gone = [name for name in known if name not in found]
            if changed or gone:
                self.check()
                self._push(record, found, changed, gone)
        self._pushed = time.monotonic()

    def _push(
        self, record: dict[str, Any], found: dict[str, Stat], changed: list[str], gone: list[str]
    ) -> None:
        known = record["files"]
        new = [name for name in changed if name not in known]
        journal = f"{_PUSHING}{self._session}-{jax.process_index()}.json"
        if new:
            self._store.write(journal, json.dumps(new).encode())
        self._save(record | {"pushing": changed})
        self._store.upload(self.folder, changed)
        self.check()
        listing = self._store.list()
        for name in changed:
            check(name in listing, f"{self.address}/{name}: is not there after its upload")
            known[name] = [*found[name], listing[name].version]
        # While the list of what was about to be added stands, a start may undo it.
        self._save(record | {"pushing": changed})
        self._store.delete([name for name in (journal, *gone) if name in listing])
        for name in gone:
            del known[name]
        self._save(record | {"pushing": []})

    def pull(self) -> None:
        """Makes the folder what the bucket holds, all machines having pushed what they made."""
        with self._alone():
            record = self._record()
            if self._session is None:
                last = self._last_session()
                if record["session"] not in (last.get("session"), last.get("before")):
                    self._forget(record)
                self._session = last.get("session", "")
            self._take(self._store.list(), record)
            self._enter(record, self._session)

    def _enter(self, record: dict[str, Any], session: str) -> None:
        self._save(record | {"session": session, "opening": session, "pushing": []})
        self._session = session

    def _last_session(self) -> dict[str, Any]:
        """Of the study that began there last: `session`, `before`, `host` and `since`."""
        told = _json(self._store.read(SESSION))
        return told if isinstance(told, dict) else {}

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

    def _forget(self, record: dict[str, Any]) -> None:
        """Deletes what is here and was never uploaded: others have gone on without it."""
        for name, stat in self._local().items():
            if record["files"].get(name, [])[:2] != list(stat):
                self._remove(self.folder / name)
        record["pushing"] = []
        self._save(record)

    def _take(self, listing: dict[str, Object], record: dict[str, Any]) -> list[str]:
        """Downloads what is new or changed there, deletes what is gone; gives what it downloaded.

        Args:
            listing: of the bucket.
            record: changed to tell of what is here afterwards; what differs from it here is newer.
        """
        known, found = record["files"], self._local()
        newer = set(record["pushing"])
        wanted, unwanted = [], []
        for name in sorted(found.keys() | known.keys() | listing.keys()):
            if self._skipped(name):
                continue
            there, here, last = listing.get(name), name in found, known.get(name)
            same_there = there is not None and last is not None and last[2] == there.version
            if there is None:
                known.pop(name, None)
                if here and last is not None and name not in newer:
                    unwanted.append(name)
            elif here and name in newer and not same_there:
                known.pop(name, None)
            elif not (here and same_there):
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
                    # Another process of this machine may be putting one in place of another.
                    with suppress(FileNotFoundError):
                        found[name] = _stat(path)
        return found

    def _skipped(self, name: str) -> bool:
        parts = name.split("/")
        return parts[0] == OWN or any(part.endswith(PARTIAL) for part in parts) or self._leave(name)

    def _record(self) -> dict[str, Any]:
        known = None
        try:
            known = read_json(self.folder / _RECORD, ("session", "opening", "files", "pushing"))
        except UserError as error:
            say(f"{error}; what the bucket has is fetched again")
        return known or {"session": None, "opening": None, "files": {}, "pushing": []}

    def _save(self, record: dict[str, Any]) -> None:
        write_json(self.folder / _RECORD, record)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps other processes of this machine from the folder and its record meanwhile."""
        (self.folder / OWN).mkdir(parents=True, exist_ok=True)
        with (self.folder / OWN / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise UserError(
                    f"{self.folder}: its disk knows no locks ({error.strerror}); set "
                    "XDG_CACHE_HOME to a folder on a disk of this machine"
                ) from None
            yield


def cache() -> Path:
    """The folder of this machine for what can be had again from elsewhere."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache").absolute() / "zsg_jax"


def _folder(address: str) -> Path:
    plain = re.sub(r"[^\w.-]+", "-", address)[-80:]
    return cache() / "workdirs" / f"{plain}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def _stat(path: Path) -> Stat:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def _json(content: bytes | None) -> Any:
    """What an object of this module's own holds; a damaged one tells as much as none."""
    try:
        return json.loads(content) if content is not None else None
    except ValueError:
        return None
