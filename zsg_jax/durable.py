"""Files that are there whole or not at all, whenever a process is killed."""

import json
import os
from pathlib import Path
from typing import Any

from zsg_jax.errors import UserError

PARTIAL = ".partial"


def write_bytes(path: Path, content: bytes) -> None:
    """Puts `content` at `path`, on disk, so that a kill leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    # The rename itself lies in the folder, which has to reach the disk as well.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON; NaN and infinities, which JSON lacks, raise ValueError."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def read_json(path: Path) -> Any:
    """Reads JSON, or returns None where there is no file.

    Raises:
        UserError: if the file is not JSON.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: is damaged: {error}") from None
