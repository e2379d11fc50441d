"""The folder the arrange command writes: who may write there, and what a finished one holds."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zsg_jax.arrangement.deduplicate import FILE as DUPLICATES
from zsg_jax.arrangement.written import IDS
from zsg_jax.data.export import FORMATS
from zsg_jax.leakage.find import FILE as LEAKS
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import OLD, PARTIAL, move, remove, replacing, sync
from zsg_jax.runtime.processes import check_owned
from zsg_jax.workdir.layout import LOCK
from zsg_jax.workdir.lock import locked

MADE = "arrangement.json"
LINES = "line.npy"
ARRAYS = ("order.npy", "turn.npy", LINES)
PAGE = "explain.html"
AIMED, SCORED = "test_aimed.jsonl", "test_scored.jsonl"
EMBEDDINGS, SCRATCH, WHOLE = "embeddings", "scratch", ".whole"
# arrangement.json goes first and comes last: where it stands, the others are those it tells of.
RESULTS = (MADE, *ARRAYS, IDS, LEAKS, DUPLICATES, PAGE, AIMED, SCORED, *FORMATS.values())


class OutFolder:
    """Paths in the output folder.

    Attributes:
        root: the folder itself.
        embeddings: kept from one arrangement to the next.
        scratch: gone when the command ends.
        new: in scratch; what is written there takes its place by `publish`.
        whole: where the new arrangement stands until it does so in its place.
    """

    def __init__(self, root: Path) -> None:
        """Touches nothing yet."""
        self.root, self.embeddings, self.scratch = root, root / EMBEDDINGS, root / SCRATCH
        self.new, self.whole = self.scratch / "new", root / WHOLE

    def publish(self) -> None:
        """Puts the new arrangement in the place of an earlier one, which stands until now.

        From then on the new one stands whole in `whole`, until it does so in its place. Whoever is
        stopped in between leaves that to the next, see `claimed`.
        """
        for path in (self.new, *self.new.rglob("*")):
            sync(path)
        check_owned()
        move(self.new, self.whole)
        self.settle()

    def settle(self) -> None:
        """Gives what stands in `whole` its place, without taking it from there before the end."""
        (self.root / MADE).unlink(missing_ok=True)
        names = {path.name for path in self.whole.iterdir()}
        for name in sorted(RESULTS, key=lambda name: name == MADE):
            if name in names:
                with replacing(self.root / name) as path:
                    _double(self.whole / name, path)
            else:
                remove(self.root / name)
        # Where this stands, `whole` is whole.
        (self.whole / MADE).unlink()
        remove(self.whole)


def _double(source: Path, target: Path) -> None:
    """A second name for the same files, or, where a file system knows none, a copy."""
    try:
        if source.is_dir():
            shutil.copytree(source, target, copy_function=os.link)
        else:
            os.link(source, target)
    except OSError:
        remove(target)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)


@contextmanager
def claimed(root: Path) -> Iterator[OutFolder]:
    """Makes the folder if need be, and keeps others out of it while it is written.

    Raises:
        UserError: if it is a file, holds what no arrangement wrote, is at work already, or cannot
            be written.
    """
    check(not root.exists() or root.is_dir(), f"--output {root}: is a file; give a folder")
    if root.is_dir():
        names = {*RESULTS, EMBEDDINGS, SCRATCH, WHOLE, LOCK}
        there = {path.name for path in root.iterdir()}
        ours = {name for name in there if name.removesuffix(PARTIAL).removesuffix(OLD) in names}
        # A lock is left by every arrangement, whole or not; without, a folder called scratch, which
        # is emptied, is somebody's.
        foreign = there - ours if there & {MADE, LOCK} else there - {EMBEDDINGS}
        check(
            not foreign,
            f"--output {root}: holds {', '.join(sorted(foreign)[:3])}, which no arrangement wrote; "
            "give an empty or a new folder",
        )
        scratch = root / SCRATCH
        check(not scratch.is_file(), f"--output {root}: {SCRATCH} is a file; give another folder")
    with locked(root, flag="--output"):
        folder = OutFolder(root)
        # What a killed command left.
        if (folder.whole / MADE).exists():
            folder.settle()
        remove(folder.whole)
        shutil.rmtree(folder.scratch, ignore_errors=True)
        folder.new.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder.scratch, ignore_errors=True)
