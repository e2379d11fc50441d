"""The files of checkpoints and what they must be, in a folder or in a bucket.

A checkpoint's manifest holds the digest of every other file. Digests are SHA-256. In a bucket of
Google's, to which each process writes its shards itself, they are the MD5 that the store keeps of
its objects, so that nothing is read back to be checked; a copy in a folder is checked by them too.
"""

import base64
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from zsg_jax.runtime import files as durable
from zsg_jax.runtime.buckets import Store, is_address

MANIFEST = "manifest.json"
Folder = Path | str  # gs://… as a string, of which a `Path` would eat a slash
_MD5 = "md5:"  # before the base64 of one; SHA-256 is in hexadecimal
_CALLED = {"md5": "MD5", "sha256": "SHA-256"}


def whole_path(folder: Folder) -> Folder:
    """From the root, as orbax needs it."""
    return str(folder) if is_address(folder) else Path(folder).resolve()


def within(folder: Folder, name: str) -> Folder:
    """A file or folder in `folder`."""
    return f"{folder}/{name}" if isinstance(folder, str) else folder / name


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
        if step.isdigit():
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
        Store(folder).write(name, f"{json.dumps(content, indent=1)}\n".encode())
    else:
        durable.write_json(folder / name, content)


def digests(folder: Folder) -> dict[str, str]:
    """The digest of every file but the manifest, by its path below `folder`."""
    return {
        name: known or _digest(folder, name, "sha256")
        for name, known in _md5s(folder).items()
        if name != MANIFEST and not name.endswith(durable.PARTIAL)
    }


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
    stored = _md5s(folder)
    for name, digest in expected.items():
        if name not in stored:
            return f"{name} is missing"
        kind = "md5" if str(digest).startswith(_MD5) else "sha256"
        known = stored[name] if kind == "md5" else None
        if digest != (known or _digest(folder, name, kind)):
            return f"{name} does not have the {_CALLED[kind]} it was written with"
    return None


def _md5s(folder: Folder) -> dict[str, str | None]:
    """Every file of a checkpoint, and its digest where the store it lies in tells it."""
    if isinstance(folder, str):
        objects = sorted(Store(folder).list().items())
        return {name: f"{_MD5}{one.md5}" if one.md5 else None for name, one in objects}
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): None for path in files}


def _digest(folder: Folder, name: str, kind: str) -> str:
    if isinstance(folder, str):
        digest = Store(folder).digest(name, kind)
    else:
        with (folder / name).open("rb") as file:
            digest = hashlib.file_digest(file, kind).digest()
    return f"{_MD5}{base64.b64encode(digest).decode()}" if kind == "md5" else digest.hex()
