"""Where a study's workdir lies: a folder, or a bucket with a folder of this machine before it."""

import hashlib
import json
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax

from zsg_jax.runtime.buckets import Store, cache, is_address, naming
from zsg_jax.runtime.errors import Unavailable, UserError, check
from zsg_jax.runtime.files import PARTIAL, at_home, read_json, write_json
from zsg_jax.runtime.processes import exchanging, is_first, of_all
from zsg_jax.runtime.progress import say
from zsg_jax.workdir import layout

# What a bucket's workdir keeps for itself, here and there.
_OWN = ".zsg_jax"
CLAIM = f"{_OWN}/claim.json"
_COPIED = f"{_OWN}/copied.json"
# Seconds: between uploads that nobody waits for; between signs of life; without one until a study
# of another machine counts as gone.
_SPARING, _BEAT, _SILENCE = 30, 60, 300
# To these orbax writes itself, each process its own shards, with no disk in between.
_ORBAX = ("gs://",)
_CHECKPOINTS = re.compile(r"(runs|pretraining)/[^/]+/checkpoints/")


class Workdir:
    """A workdir in a folder.

    Attributes:
        folder: of this machine, where the study works.
        address: of the bucket; None: the folder is all there is.
    """

    address: str | None = None

    def __init__(self, folder: Path | str) -> None:
        """Touches nothing yet."""
        self.folder = Path(folder)

    def checkpoints(self, folder: Path) -> Path | str:
        """Where the checkpoints that belong into a folder of the workdir are written."""
        return folder

    def begin(self) -> None:
        """For the first process, which has locked the folder: makes it what the bucket holds."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, what one process writes the others see, and the bucket gets."""
        yield


def open_workdir(given: Path | str) -> Workdir:
    """The workdir at a folder, gs://BUCKET/PATH or s3://BUCKET/PATH.

    Raises:
        UserError: an address that cannot be used.
    """
    return BucketWorkdir(given) if is_address(given) else Workdir(at_home(given))


class BucketWorkdir(Workdir):
    """A workdir in a bucket, which has a copy of the folder that the study works in.

    A study needs locks, renames and appended lines, which object stores lack. What is new in the
    folder goes up wherever processes wait for one another, file by file in the order in which it
    was written, so that a killed upload leaves what a kill a moment earlier would have left. What
    is gone here is deleted there last. At a start the bucket is right.
    """

    def __init__(self, address: Path | str) -> None:
        """Touches neither the bucket nor the disk yet.

        Raises:
            UserError: as `Store`.
        """
        self._store = Store(address)
        self.address: str = self._store.address
        plain = re.sub(r"[^\w.-]+", "-", self.address)[-80:]
        digest = hashlib.sha256(self.address.encode()).hexdigest()[:8]
        super().__init__(cache() / "workdirs" / f"{plain}-{digest}")
        self._orbax_writes = self.address.startswith(_ORBAX)
        # Of the processes of a machine, one uploads and downloads.
        self._copies = True
        self._claim: str | None = None  # the study whose files these are
        self._pushed = -math.inf
        self._ended = threading.Event()

    def checkpoints(self, folder: Path) -> Path | str:
        """Where the checkpoints that belong into a folder of the workdir are written."""
        if self._orbax_writes:
            return f"{self.address}/{folder.relative_to(self.folder).as_posix()}"
        return folder

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, what one process writes the others see, and the bucket gets.

        Raises:
            UserError: the processes are of several machines, which the store does not allow.
        """
        # Those of one machine have one folder; the first of them copies for all.
        machines = of_all(f"{socket.gethostname()}:{self.folder}")
        self._copies = machines.index(machines[jax.process_index()]) == jax.process_index()
        if len(set(machines)) > 1 and not self._orbax_writes:
            hosts = ", ".join(sorted({machine.partition(":")[0] for machine in machines}))
            raise UserError(
                f"--workdir {self.address}: the processes of {hosts} cannot write "
                "one checkpoint there, orbax knowing gs:// alone; mount the bucket on all of them "
                "and give the folder"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.folder}: cannot be made ({error.strerror}), to work in for {self.address}; "
                "set XDG_CACHE_HOME to a folder of this machine that can be written"
            ) from None
        failure = ""
        with naming(self.address, self.folder), exchanging(self):
            try:
                yield
            except BaseException as error:
                failure = str(error)
                raise
            finally:
                try:
                    # A study that fails leaves in the bucket what it had made.
                    self.push()
                    self.end()
                except UserError as error:
                    # Of a study that is over, or fails of the same, nothing more need be said.
                    if str(error) != failure:
                        say(str(error))

    def begin(self) -> None:
        """Claims the address and makes the folder what the bucket holds; for the first process.

        Raises:
            UserError: what lies there is no workdir, or as `Store`.
            Unavailable: another study is at work there.
        """
        names = {name for name in self._store.list() if not self._left_alone(name)}
        claim = self._read_claim()
        check(
            not names or layout.CONFIG in names or claim is not None,
            f"--workdir {self.address}: holds objects but no {layout.CONFIG}; give an empty or a "
            "new place",
        )
        if claim is not None and _is_alive(claim):
            raise Unavailable(
                f"--workdir {self.address}: {claim.get('host')} is at work there, or was until "
                f"{_SILENCE // 60} minutes ago; wait for it, or delete {self.address}/{CLAIM} if "
                "it is gone; then the same command goes on"
            )
        self._claim = uuid.uuid4().hex
        self._write_claim()
        threading.Thread(target=self._beat, daemon=True).start()
        size = self.pull()
        what = f"; {size / 1e6:,.1f} MB fetched" if size else ""
        say(f"{self.address}: its files here are in {self.folder}{what}")

    def end(self) -> None:
        """Gives the address free again, for whoever called `begin`."""
        if not self._ended.is_set() and self._claim is not None and is_first():
            self._ended.set()
            if (self._read_claim() or {}).get("id") == self._claim:
                self._store.delete([CLAIM])

    def check(self) -> None:
        """Makes sure that nobody else has claimed the address since.

        Raises:
            UserError: somebody has.
        """
        claim = self._read_claim() or {}
        if self._claim is not None and claim.get("id") != self._claim:
            raise UserError(
                f"--workdir {self.address}: {claim.get('host', 'another study')} has gone on with "
                "it; this process ends, and what it made since is not uploaded"
            )

    def push(self, *, sparing: bool = False) -> None:
        """Uploads what has changed here since it was copied, and deletes what is gone here.

        Args:
            sparing: not if that was a moment ago.

        Raises:
            UserError: as `check`, or as `Store`.
        """
        early = sparing and time.monotonic() - self._pushed < _SPARING
        if self._claim is None or not self._copies or early:
            return
        copied, here = self._copied(), self._here()
        changed = [name for name in here if copied.get(name, [None])[0] != here[name]]
        gone = [name for name in copied if name not in here]
        if changed or gone:
            self.check()
            for name in sorted(changed, key=lambda name: (here[name][1], name)):
                self._store.upload(self.folder, [name])
            self._store.delete(gone)
            there = self._store.list()
            kept = {name: known for name, known in copied.items() if name in here}
            self._record(kept | {n: [here[n], there[n].version] for n in changed if n in there})
        self._pushed = time.monotonic()

    def pull(self) -> int:
        """Makes the folder what the bucket holds, all machines having pushed; bytes downloaded."""
        if not self._copies:
            return 0
        self._claim = self._claim or (self._read_claim() or {}).get("id")
        there = {n: one for n, one in self._store.list().items() if not self._left_alone(n)}
        copied, here = self._copied(), self._here()
        same = {n for n in here if n in there and copied.get(n) == [here[n], there[n].version]}
        for name in here.keys() - there.keys():
            (self.folder / name).unlink()
            with suppress(OSError):  # as soon as one holds something else
                for parent in list((self.folder / name).parents)[: name.count("/")]:
                    parent.rmdir()
        wanted = sorted(there.keys() - same)
        self._store.download(self.folder, wanted)
        here = self._here()
        self._record({name: [here[name], there[name].version] for name in there})
        return sum(there[name].size for name in wanted)

    def _copied(self) -> dict[str, list[Any]]:
        """Of each file that has been copied: its size and time here, and its version there."""
        try:
            return (read_json(self.folder / _COPIED) or {}).get("copied", {})
        except UserError:
            return {}  # all is copied again

    def _record(self, copied: dict[str, list[Any]]) -> None:
        write_json(self.folder / _COPIED, {"copied": copied})

    def _here(self) -> dict[str, list[int]]:
        """The files here: bytes, and nanoseconds of the last change."""
        found = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            # Another process of this machine may be putting one in place of another.
            with suppress(FileNotFoundError):
                if path.is_file() and not self._left_alone(name):
                    found[name] = [path.stat().st_size, path.stat().st_mtime_ns]
        return found

    def _left_alone(self, name: str) -> bool:
        """What is half written, of use to this machine alone, or gets to the bucket by itself."""
        first, *_ = parts = name.split("/")
        return (
            first in (_OWN, layout.SCRATCH)
            or name == layout.LOCK
            or any(part.endswith(PARTIAL) for part in parts)
            or (self._orbax_writes and _CHECKPOINTS.match(name) is not None)
        )

    def _read_claim(self) -> dict[str, Any] | None:
        content = self._store.read(CLAIM)
        try:
            return None if content is None else dict(json.loads(content))
        except (ValueError, TypeError):
            return {}

    def _write_claim(self) -> None:
        claim = {"id": self._claim, "host": socket.gethostname(), "pid": os.getpid()}
        self._store.write(CLAIM, json.dumps(claim | {"time": time.time()}).encode())

    def _beat(self) -> None:
        """Says every minute that this study is still at work."""
        while not self._ended.wait(_BEAT):
            with suppress(UserError):
                self.check()
                self._write_claim()


def _is_alive(claim: Mapping[str, Any]) -> bool:
    """Whether the process that left a claim may be at work; of this machine, that is known."""
    if claim.get("host") != socket.gethostname():
        return time.time() - float(claim.get("time", 0)) < _SILENCE
    pid = int(claim.get("pid", 0))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # A container that is started again has the same numbers.
    return pid != os.getpid()
