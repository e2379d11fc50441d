"""Where a study's workdir lies: a folder, or a bucket with a folder of this machine before it."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

from zsg_jax.runtime.buckets import is_address, naming
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.mirror import Mirror
from zsg_jax.runtime.processes import exchanging, of_all
from zsg_jax.runtime.progress import say
from zsg_jax.workdir import claims

# To these orbax writes itself, each process its own shards, with no disk in between.
_ORBAX = ("gs://",)
_CHECKPOINTS = re.compile(r"runs/[^/]+/checkpoints/")


class Workdir:
    """A workdir wherever it lies.

    Attributes:
        folder: of this machine, where the study works.
        address: of the bucket; None: the folder is all there is.
    """

    def __init__(self, workdir: Path | str) -> None:
        """Takes a folder, gs://BUCKET/PATH or s3://BUCKET/PATH.

        Raises:
            UserError: an address that cannot be used.
        """
        self._mirror: Mirror | None = None
        self.address: str | None = None
        self.folder = Path(workdir)
        if is_address(workdir):
            self._mirror = Mirror(workdir, marker=claims.CONFIG, leave=self._leave)
            self.address, self.folder = self._mirror.address, self._mirror.folder

    def checkpoints(self, folder: Path) -> Path | str:
        """Where the checkpoints that belong into a folder of the workdir are written."""
        if self._orbax_writes:
            return f"{self.address}/{folder.relative_to(self.folder).as_posix()}"
        return folder

    def begin(self) -> None:
        """For the first process, which has locked the folder: makes it what the bucket holds."""
        if self._mirror is not None:
            self._mirror.begin()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside, what one process writes the others see, and the bucket gets.

        Raises:
            UserError: the processes are of several machines, which the store does not allow.
        """
        if self._mirror is None:
            yield
            return
        # Those of one machine have one folder; the first of them copies for all.
        machines = of_all(f"{socket.gethostname()}:{self.folder}")
        self._mirror.copies = machines.index(machines[jax.process_index()]) == jax.process_index()
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
        with naming(self._mirror.address, self.folder), exchanging(self._mirror):
            try:
                yield
            except BaseException as error:
                failure = str(error)
                raise
            finally:
                try:
                    # A study that fails leaves in the bucket what it had made.
                    self._mirror.push()
                    self._mirror.end()
                except UserError as error:
                    # Of a study that is over, or fails of the same, nothing more need be said.
                    if str(error) != failure:
                        say(str(error))

    @property
    def _orbax_writes(self) -> bool:
        return self.address is not None and self.address.startswith(_ORBAX)

    def _leave(self, name: str) -> bool:
        """What is of use to this machine alone, or gets to the bucket by itself."""
        return (
            name == claims.LOCK
            or name.startswith(f"{claims.SCRATCH}/")
            or (self._orbax_writes and _CHECKPOINTS.match(name) is not None)
        )
