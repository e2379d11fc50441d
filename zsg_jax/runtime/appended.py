"""Files that grow by what is appended: what a kill cut off is told from what was damaged.

Beside NAME.jsonl lies NAME.sha256, which holds how many bytes were written and their digest.
"""

import hashlib
import json
import math
from pathlib import Path

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import PARTIAL, read_json, remove, write_bytes
from zsg_jax.runtime.progress import say


class Written:
    """What has been written into a file that this process appends to."""

    def __init__(self, path: Path) -> None:
        """Takes what the file holds."""
        content = path.read_bytes() if path.exists() else b""
        self._path, self._bytes, self._digest = path, len(content), hashlib.sha256(content)

    def tell(self, added: bytes) -> None:
        """Notes what has been appended."""
        self._bytes += len(added)
        self._digest.update(added)
        told = {"bytes": self._bytes, "sha256": self._digest.hexdigest()}
        # Not waited for: where a power cut leaves an older one, it tells of less.
        partial = _beside(self._path).with_suffix(PARTIAL)
        partial.write_text(json.dumps(told) + "\n")
        partial.replace(_beside(self._path))


def checked(path: Path) -> float:
    """The bytes from the beginning that are what was written; all, where nothing tells of them.

    Raises:
        UserError: they are not what was written.
    """
    check(
        not _is_damaged(path),
        f"{path}: is damaged: it is not what was written there, or {_beside(path).name} is; delete "
        "both to measure all again",
    )
    told = read_json(_beside(path), ("bytes", "sha256"))
    if told is None:
        return math.inf
    return told["bytes"] if path.exists() and path.stat().st_size >= told["bytes"] else 0


def mend(path: Path, sound: int) -> None:
    """Cuts off what follows the first `sound` bytes, where it is not what was written there."""
    if _is_damaged(path):
        say(f"{path}: is damaged behind what its checkpoint follows; that is measured again")
        write_bytes(path, path.read_bytes()[:sound])
        remove(_beside(path))


def forget(path: Path) -> None:
    """Takes what a file holds for all that was written there, as it was cut on purpose."""
    remove(_beside(path))


def _beside(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_damaged(path: Path) -> bool:
    """Whether a file that is long enough does not begin with what was written there."""
    try:
        told = read_json(_beside(path), ("bytes", "sha256"))
        if told is None or not path.exists() or path.stat().st_size < told["bytes"]:
            return False
        written = path.read_bytes()[: told["bytes"]]
    except (UserError, TypeError):
        return True
    return hashlib.sha256(written).hexdigest() != told["sha256"]
