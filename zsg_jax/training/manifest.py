"""What a checkpoint's files must be: their digests, in a folder or in a bucket.

Digests are SHA-256. In a bucket of Google's, to which each process writes its shards itself, they
are the MD5 that the store keeps of its objects, so that nothing is read back to be checked. A copy
of such a checkpoint in a folder is checked by them as well.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from etils import epath

from zsg_jax import durable
from zsg_jax.bucket.store import Store, is_address

MANIFEST = "manifest.json"
_MD5 = "md5:"  # before the base64 of one; SHA-256 is in hexadecimal
_CALLED = {"md5": "MD5", "sha256": "SHA-256"}


def write_json(path: epath.Path, content: Any) -> None:
    """Puts JSON in place, whole or not at all, in a folder or in a bucket."""
    if is_address(path):
        path.write_text(f"{json.dumps(content, indent=1)}\n")
    else:
        durable.write_json(Path(path), content)


def digests(folder: epath.Path) -> dict[str, str]:
    """The digest of every file but the manifest, by its path below `folder`."""
    stored = _stored(folder)
    if stored is not None:
        found = {name: stored[name] or _digest(folder / name, "sha256") for name in sorted(stored)}
    else:
        files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
        found = {
            path.relative_to(folder).as_posix(): _digest(path, "sha256")
            for path in files
            if path.suffix != durable.PARTIAL
        }
    return {name: digest for name, digest in found.items() if name != MANIFEST}


def problem_of(folder: epath.Path | Path, needed: str) -> str | None:
    """What is wrong with the files that the manifest of `folder` lists, or None.

    Args:
        folder: has a manifest.
        needed: a file that every manifest lists; one that does not is not whole.
    """
    try:
        expected = json.loads((folder / MANIFEST).read_text())
    except ValueError:
        return f"{MANIFEST} is not JSON"
    if not isinstance(expected, dict) or not isinstance(expected.get(needed), str):
        return f"{MANIFEST} is not whole"
    stored = _stored(folder)
    for name, digest in expected.items():
        path = folder / name
        kind = "md5" if str(digest).startswith(_MD5) else "sha256"
        if name not in stored if stored is not None else not path.is_file():
            return f"{name} is missing"
        known = stored and kind == "md5" and stored[name]
        if digest != (known or _digest(path, kind)):
            return f"{name} does not have the {_CALLED[kind]} it was written with"
    return None


def _stored(folder: epath.Path | Path) -> dict[str, str | None] | None:
    """What a bucket tells of the digests of its objects, by name; None: of a folder."""
    if not is_address(folder):
        return None
    objects = Store(str(folder)).list()
    return {name: f"{_MD5}{one.md5}" if one.md5 else None for name, one in objects.items()}


def _digest(path: epath.Path | Path, kind: str) -> str:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, kind)
    if kind == "md5":
        return f"{_MD5}{base64.b64encode(digest.digest()).decode()}"
    return digest.hexdigest()
