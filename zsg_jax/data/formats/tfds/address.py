"""Which data set of TFDS a source names, and where it is on disk; nothing is downloaded.

`tfds:NAME[/CONFIG][:VERSION][:SPLIT][@DATA_DIR]` names a data set under a folder of TFDS, by
default the one that TFDS_DATA_DIR names or else ~/tensorflow_datasets. `FOLDER[:SPLIT]` names it
by the folder of its version, or by the folder above, whose newest version it then is; where a
newer one is there in part, as of a copy that was cut off, neither is taken.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from zsg_jax.data.formats.tfds.layout import FEATURES, INFO, VERSION
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import at_home

PREFIX = "tfds:"


class Address(NamedTuple):
    """The folder of one version; a split of it, as TFDS writes one, or "" for its only split."""

    folder: Path
    split: str


def is_tfds(path: Path) -> bool:
    """Whether a source names a data set of TFDS, there or not."""
    return str(path).startswith(PREFIX) or _in_folder(path) is not None


def find(path: Path) -> Address:
    """Finds what a source names.

    Raises:
        UserError: where there is no such data set, with the command that makes it; where its newest
            version is not whole.
    """
    if str(path).startswith(PREFIX):
        return _named(str(path))
    found = _in_folder(path)
    check(found is not None, f"{path}: holds no data set of TFDS, which has {FEATURES}")
    assert found is not None
    if _is_version(found.folder):
        return found
    return found._replace(folder=_newest(found.folder, path))


def _in_folder(path: Path) -> Address | None:
    """The folder that is named, of a version or above some; None: it is neither."""
    if path.is_dir():
        folder, split = path, ""
    elif ":" in path.name and not path.exists():
        name, _, split = path.name.partition(":")
        folder = path.with_name(name) if name else path.parent
    else:
        return None
    return Address(folder, split) if _is_version(folder) or _versions(folder) else None


def _named(source: str) -> Address:
    given, _, root = source.removeprefix(PREFIX).partition("@")
    name, _, rest = given.partition(":")
    version, _, split = rest.partition(":")
    if rest and not re.fullmatch(r"\d+(\.\d+)*", version):
        version, split = "", rest
    check(
        bool(name) and ".." not in name.split("/"),
        f"{source}: names no data set; give tfds:NAME[/CONFIG][:VERSION][:SPLIT][@DATA_DIR]",
    )
    data = at_home(root or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    base = data / name
    if version:
        folder = base / version
        known = ", ".join(one.name for one in _versions(base))
        check(
            _is_version(folder) or not known,
            f"{source}: version {version} is not prepared in {base}; there are {known}",
        )
    else:
        configs = [one for one in _folders(base) if _versions(one)]
        check(
            bool(_versions(base)) or len(configs) < 2,
            f"{source}: has the configs {', '.join(one.name for one in configs)}; name one, as "
            f"{PREFIX}{name}/{configs[0].name if configs else ''}",
        )
        above = [base] if _versions(base) else configs
        folder = _newest(above[0], source) if above else base
    if not _is_version(folder):
        raise UserError(
            f"{source}: is not prepared under {data}, and nothing is downloaded; give its folder "
            f"as {PREFIX}{given}@DATA_DIR, or prepare it: tfds build {name} "
            f"--file_format=array_record --data_dir={data}"
        )
    return Address(folder, split)


def _is_version(folder: Path) -> bool:
    return (folder / FEATURES).is_file() and (folder / INFO).is_file()


def _versions(folder: Path) -> list[Path]:
    """The versions in a folder, the newest last."""
    found = [one for one in _folders(folder) if VERSION.fullmatch(one.name) and _is_version(one)]
    return sorted(found, key=_number)


def _newest(folder: Path, source: str | Path) -> Path:
    """The newest version in a folder that has some; refuses where a newer one is there in part."""
    newest = _versions(folder)[-1]
    for one in _folders(folder):
        # What is empty was never begun.
        if VERSION.fullmatch(one.name) and _number(one) > _number(newest) and any(one.iterdir()):
            raise UserError(
                f"{source}: its newest version, {one}, lacks {FEATURES} or {INFO}; copy or prepare "
                f"it again, take it away, or name a whole one by its folder, {newest}"
            )
    return newest


def _number(version: Path) -> list[int]:
    return [int(part) for part in version.name.split(".")]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir())
    except OSError:
        return []
