"""The files of checkpoints and what they must be, in a folder or in a bucket.

A checkpoint's manifest holds the digest of every other file. Digests are SHA-256. In a bucket of
Google's, to which each process writes its shards itself, they are the MD5 that the store keeps of
its objects, so that nothing is read back to be checked; a copy in a folder is checked by them too.
"""

import base64
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zsg_jax.runtime import files, shards
from zsg_jax.runtime.buckets import Store, is_address
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.shards import MANIFEST

Folder = Path | str  # gs://… as a string, of which a `Path` would eat a slash
_PATTERN = re.compile(r"[*?\[\]\\]")
_MD5 = "md5:"  # before the base64 of one; SHA-256 is in hexadecimal


def whole_path(folder: Folder) -> Folder:
    """From the root, as orbax needs it."""
    return str(folder) if is_address(folder) else Path(folder).resolve()


def within(folder: Folder, name: str) -> Folder:
    """A file or folder in `folder`."""
    return f"{folder}/{name}" if isinstance(folder, str) else folder / name


@contextmanager
def plainly_named(folder: Folder) -> Iterator[Folder]:
    """A path that means `folder` and is no pattern, for orbax, which takes every path for one.

    Raises:
        UserError: there is none, since that of temporary files is a pattern as well.
    """
    folder = whole_path(folder)
    if isinstance(folder, str) or not _PATTERN.search(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="zsg_jax-") as beside:
        check(
            not _PATTERN.search(beside),
            f"{folder} and {beside} both hold one of * ? [ ] \\, which orbax cannot read; give "
            "another --workdir, or set TMPDIR to a folder without them",
        )
        link = Path(beside).resolve() / "checkpoint"
        link.symlink_to(folder, target_is_directory=True)
        yield link


def steps(folder: Folder) -> dict[int, bool]:
    """Whether each checkpoint in `folder` was finished, by its step, from the first to the last."""
    if isinstance(folder, str):
        names = list(Store(folder).list())
    else:
        inside = folder.iterdir() if folder.is_dir() else ()
        names = [f"{path.name}/{name}" for path in inside if path.is_dir() for name in _top(path)]
    found: dict[int, bool] = {}
    for name in names:
        step, _, rest = name.partition("/")
        if step.isascii() and step.isdigit():
            found[int(step)] = found.get(int(step), False) or rest == MANIFEST
    return dict(sorted(found.items()))


def _top(folder: Path) -> list[str]:
    """What lies in `folder`, of which there is something even if it is empty."""
    return [path.name for path in folder.iterdir()] or [""]


def begin(folder: Folder) -> None:
    """Makes a checkpoint's folder, which from now on counts as not finished."""
    if isinstance(folder, str):
        # What is left of an older one could pass for the new one's.
        delete(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)


def delete(folder: Folder) -> None:
    """Deletes a checkpoint; one that is stopped in between was never finished."""
    if isinstance(folder, str):
        store = Store(folder)
        names = list(store.list())
        store.delete([name for name in names if name == MANIFEST])
        store.delete([name for name in names if name != MANIFEST])
    else:
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)


def read_json(folder: Folder, name: str) -> Any:
    """What a JSON file of a checkpoint holds.

    Raises:
        ValueError: it is none.
    """
    if isinstance(folder, str):
        return json.loads(Store(folder).read(name) or b"")
    return json.loads((folder / name).read_bytes())


def write_json(folder: Folder, name: str, content: Any) -> None:
    """Puts JSON in place, whole or not at all."""
    if isinstance(folder, str):
        Store(folder).write(name, files.json_bytes(content))
    else:
        files.write_json(folder / name, content)


def digests(folder: Folder) -> dict[str, str]:
    """The digest of every file but the manifest, by its path below `folder`."""
    if isinstance(folder, str):
        objects = sorted(Store(folder).list().items())
        found = {
            name: f"{_MD5}{one.md5}" if one.md5 else _digest(folder, name, "sha256")
            for name, one in objects
        }
    else:
        found = shards.digests(folder)
    return {name: digest for name, digest in found.items() if name != MANIFEST}


def problem_of(folder: Folder, needed: str) -> str | None:
    """What is wrong with the files that the manifest of `folder` lists, or None.

    Args:
        folder: has a manifest.
        needed: a file that every manifest lists; one that does not is not whole.
    """
    try:
        expected = read_json(folder, MANIFEST)
    except ValueError:
        return f"{MANIFEST} is not JSON"
    if not isinstance(expected, dict) or not isinstance(expected.get(needed), str):
        return f"{MANIFEST} is not whole"
    objects = Store(folder).list() if isinstance(folder, str) else None

    def digest(name: str) -> str:
        algorithm = "md5" if str(expected[name]).startswith(_MD5) else "sha256"
        if objects is not None and name not in objects:
            raise FileNotFoundError(name)
        # What the store itself knows of an object need not be read back.
        if objects is not None and algorithm == "md5" and objects[name].md5:
            return f"{_MD5}{objects[name].md5}"
        return _digest(folder, name, algorithm)

    return shards.damage(expected, digest)


def _digest(folder: Folder, name: str, algorithm: str) -> str:
    if isinstance(folder, str):
        digest = Store(folder).digest(name, algorithm)
    else:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, algorithm).digest()
    return f"{_MD5}{base64.b64encode(digest).decode()}" if algorithm == "md5" else digest.hex()
