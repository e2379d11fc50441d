"""What a workdir keeps and no other manifest guards: the digest of each such file, as it is made.

Token sequences, embeddings and checkpoints have manifests of their own; the records of a run are
guarded by the position of its checkpoints and, at the end, by its finished.json, those of a cell by
what is kept of it and then by its end.json; these this guards.
`manifest.json` is `{"files": {NAME: [SHA-256, …]}, "sha256": DIGEST}`, the latter over the former.
While a file is put in the place of another, both its digests stand there; null: it may be missing.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from zsg_jax.runtime import files
from zsg_jax.runtime.errors import Unavailable, UserError, check
from zsg_jax.runtime.processes import check_owned
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.shards import MANIFEST
from zsg_jax.training.belongs import FILE as BELONGS
from zsg_jax.workdir import claims, growing, layout

Digests = list[str | None]

_BACK = "put it back, or start again in another --workdir"
_REMADE = "put it back, or delete {folder} to make it again"
# The files that are guarded, and the way out where one has changed.
_GUARDED = {
    rf"{layout.DATA}|{layout.MODEL}|{layout.HUB}": _BACK,
    rf"{layout.CONFIG}": "put it back, or run its study again, which writes it",
    rf"{layout.BEGUN}|{layout.SHOWN}": "put it back, or delete it: the page then does without",
    r"leakage\.jsonl?": "put it back, or delete leakage.json and leakage.jsonl to look again",
    rf"embeddings/{layout.COST}": "put it back, or delete it: the page then does without",
    r"arrangements/[^/]+/(arrangement\.json|similarity\.json|order\.npy|turn\.npy)": _REMADE,
    rf"(runs|pretraining)/[^/]+/{BELONGS}": (
        "put it back, or delete {folder} to train this run from the start"
    ),
    r"(runs|pretraining)/[^/]+/finished\.json": "put it back, or delete it: the run then ends anew",
    r"runs/[^/]+/end\.json": "put it back, or delete it: the cell is then trained anew",
    rf"arrangements/[^/]+/{layout.EXPLAINED}": "put it back, or delete it: the page does without",
    r"arrangements/[^/]+/ids\.txt": "",
    r"runs/[^/]+/rearranged/\d+/(ids\.txt|arrangement\.json|order\.npy|turn\.npy)": (
        "put it back, or delete {folder}: a run that goes on arranges the same anew, while its "
        "checkpoint of that step is kept"
    ),
}
# What follows from the others, and is made again.
_DERIVED = re.compile(r"arrangements/[^/]+/ids\.txt")
# Who deletes one of these has it made again.
_MAY_GO = re.compile(
    rf"leakage\.jsonl?|{layout.BEGUN}|{layout.SHOWN}|.*/(ids\.txt|finished\.json|end\.json|"
    rf"{BELONGS}|{layout.EXPLAINED}|{layout.COST})"
)


class Manifest:
    """The manifest of a workdir whose study this process is at work on."""

    def __init__(self, workdir: Path) -> None:
        """Checks every file that is listed, and lists those that no manifest has told of yet.

        Raises:
            UserError: the manifest is damaged, or a file that it lists is missing or has changed.
        """
        self._workdir = workdir
        self._lock = threading.Lock()
        known, present = _read(workdir), _present(workdir)
        if known is None and set(present) - {layout.CONFIG}:
            say(
                f"{workdir}: has no {MANIFEST}, as workdirs of earlier versions; what it holds is "
                "taken as it is, and guarded from now on"
            )
        self._files: dict[str, Digests] = {}
        for name, digests in (known or {}).items():
            if name == layout.CONFIG:
                continue  # it was compared with the config that was given
            problem = _problem(workdir, name, digests)
            if problem is None:
                self._files[name] = [files.file_digest(workdir / name)]
            elif _DERIVED.fullmatch(name) and (workdir / name).exists():
                say(f"{workdir / name}: {problem}; it is made again")
                files.remove(workdir / name)
        for name in present:
            if name not in self._files and (workdir / name).exists():
                self._files[name] = [files.file_digest(workdir / name)]
        if self._files != known and (known is not None or self._files):
            _write(workdir, self._files)

    @contextmanager
    def placing(self, path: Path, partial: Path) -> Iterator[None]:
        """Inside, `partial` takes the place of `path`; whenever a kill comes, both are known."""
        check_owned()
        name = _name(self._workdir, path)
        if name is None:
            yield
            return
        known, digest = self._files.get(name, [None]), files.file_digest(partial)
        if known != [digest]:
            self._list(name, [*known, digest])
        yield
        if known != [digest]:
            self._list(name, [digest])

    def _list(self, name: str, digests: Digests) -> None:
        # Cells end in threads of their own.
        with self._lock:
            self._files[name] = digests
            _write(self._workdir, self._files)


@contextmanager
def claimed(workdir: Path, config: dict[str, Any]) -> Iterator[bool]:
    """`claims.claim`; inside, what is written into the workdir is listed.

    A config that is refused inside, before it has trained anything, binds nobody; nor does one that
    a study was to grow to, if it ends before.

    Raises:
        UserError: as `claims.claim` and `Manifest`.
    """
    if files.read_json(workdir / layout.CONFIG) not in (None, config):
        check_whole(workdir, but=layout.CONFIG)  # what would be kept beside a new config
    with files.recording(partial(_expecting, workdir)):
        new = claims.claim(workdir, config)
    try:
        with files.recording(Manifest(workdir).placing):
            yield new
    except Unavailable:
        raise
    except (Exception, KeyboardInterrupt) as error:
        with suppress(UserError):  # the first one is told
            check_owned()
            with files.recording(partial(_expecting, workdir)):
                growing.step_back(workdir)
            if isinstance(error, UserError):
                claims.release(workdir)
            if (workdir / layout.CONFIG).exists():
                Manifest(workdir)
        raise
    growing.end(workdir)


def check_whole(workdir: Path, *, but: str = "") -> None:
    """Refuses a workdir of which a guarded file has changed, writing nothing.

    What is not there is not missed: of a bucket, only what is read is fetched.

    Args:
        workdir: of a study.
        but: a file that is not looked at.

    Raises:
        UserError: as `Manifest`.
    """
    for name, digests in (_read(workdir) or {}).items():
        if name != but and (workdir / name).exists():
            _problem(workdir, name, digests)


@contextmanager
def _expecting(workdir: Path, path: Path, partial: Path) -> Iterator[None]:
    """Inside, a file takes the place of another of which a manifest tells; `Manifest` follows."""
    name = _name(workdir, path)
    known = None if name is None else _read(workdir)
    if known is not None and name is not None:
        before, digest = known.get(name, [None]), files.file_digest(partial)
        if before != [digest]:
            _write(workdir, known | {name: [*before, digest]})
    yield


def _write(workdir: Path, listed: dict[str, Digests]) -> None:
    listed = dict(sorted(listed.items()))
    files.write_json(workdir / MANIFEST, {"files": listed, "sha256": _digest(listed)})


def _read(workdir: Path) -> dict[str, Digests] | None:
    path = workdir / MANIFEST
    try:
        content = files.read_json(path, ("files", "sha256"))
        if content is None:
            return None
        listed = content["files"]
        whole = content["sha256"] == _digest(listed)
    except (UserError, ValueError, TypeError):
        whole = False
    check(
        whole,
        f"{path}: is damaged; put it back, or delete it: what the workdir holds is then taken as "
        "it is",
    )
    return listed


def _digest(listed: object) -> str:
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()


def _problem(workdir: Path, name: str, digests: Digests) -> str | None:
    """What is wrong with a file that is made again; None: nothing.

    Raises:
        UserError: something is wrong with one that is not.
    """
    path = workdir / name
    try:
        if files.file_digest(path) in digests:
            return None
        problem = f"is damaged, or {MANIFEST} is older: that tells of another file"
    except FileNotFoundError:
        problem = "is missing"
        # Folders are deleted to make what they hold again.
        folder_gone = path.parent != workdir and not path.parent.exists()
        if None in digests or folder_gone or _MAY_GO.fullmatch(name):
            return problem
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if _DERIVED.fullmatch(name):
        return problem
    way_out = next(way for form, way in _GUARDED.items() if re.fullmatch(form, name))
    raise UserError(f"{path}: {problem}; {way_out.format(folder=path.parent)}")


def _name(workdir: Path, path: Path) -> str | None:
    """The name of a guarded file; None for any other."""
    try:
        name = path.relative_to(workdir).as_posix()
    except ValueError:
        return None
    return name if any(re.fullmatch(form, name) for form in _GUARDED) else None


def _present(workdir: Path) -> list[str]:
    """The guarded files that are there."""
    folders = [workdir]
    for parts in ("embeddings", "arrangements/*", "runs/*", "pretraining/*", "runs/*/rearranged/*"):
        folders += (one for one in workdir.glob(parts) if one.is_dir())
    paths = (path for folder in folders for path in folder.iterdir() if path.is_file())
    return sorted(name for path in paths if (name := _name(workdir, path)) is not None)
