"""The folder the arrange command writes: who may write there, and what a finished one holds."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zsg_jax.data.export import FORMATS
from zsg_jax.leakage.find import FILE as LEAKS
from zsg_jax.runtime.errors import check
from zsg_jax.workdir.claims import LOCK, locked

MADE = "arrangement.json"
LINES = "line.npy"
ARRAYS = ("order.npy", "turn.npy", LINES)
PAGE = "explain.html"
AIMED, SCORED = "test_aimed.jsonl", "test_scored.jsonl"
EMBEDDINGS, SCRATCH = "embeddings", "scratch"
# arrangement.json goes first and comes last: where it stands, the others are those it tells of.
RESULTS = (MADE, *ARRAYS, LEAKS, PAGE, AIMED, SCORED, *FORMATS.values())


@dataclass(frozen=True)
class OutFolder:
    """Paths in the output folder.

    Attributes:
        root: the folder itself.
        embeddings: kept from one arrangement to the next.
        scratch: gone when the command ends.
        new: in scratch; what is written there takes its place by `publish`.
    """

    root: Path

    @property
    def embeddings(self) -> Path:
        return self.root / EMBEDDINGS

    @property
    def scratch(self) -> Path:
        return self.root / SCRATCH

    @property
    def new(self) -> Path:
        return self.scratch / "new"

    def publish(self) -> None:
        """Puts the new arrangement in the place of an earlier one, which stands until now."""
        for name in RESULTS:
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for path in sorted(self.new.iterdir(), key=lambda path: path.name == MADE):
            path.replace(self.root / path.name)


@contextmanager
def claimed(root: Path) -> Iterator[OutFolder]:
    """Makes the folder if need be, and keeps others out of it while it is written.

    Raises:
        UserError: if it is a file, holds what no arrangement wrote, is at work already, or cannot
            be written.
    """
    check(not root.exists() or root.is_dir(), f"--output {root}: is a file; give a folder")
    if root.is_dir():
        ours = {*RESULTS, EMBEDDINGS, SCRATCH, LOCK}
        there = {path.name for path in root.iterdir()}
        # A lock is left by every arrangement, whole or not.
        foreign = there - ours if there & {MADE, LOCK} else there - {EMBEDDINGS, SCRATCH}
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
        shutil.rmtree(folder.scratch, ignore_errors=True)
        folder.new.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder.scratch, ignore_errors=True)
