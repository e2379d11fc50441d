"""How a workdir came to be: by which command, in which folder, when."""

import datetime
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import read_json, write_json
from zsg_jax.runtime.version import told_version
from zsg_jax.workdir.layout import BEGUN


def begin(workdir: Path, command: str) -> None:
    """Notes how the workdir came to be, for its page, unless an earlier start has."""
    if not (workdir / BEGUN).exists():
        now = datetime.datetime.now(datetime.UTC)
        told = {
            "command": command,
            "version": told_version(),
            "date": f"{now:%Y-%m-%d %H:%M} UTC",
        }
        with suppress(FileNotFoundError):  # it has been deleted: no relative path is read
            told["folder"] = os.getcwd()
        write_json(workdir / BEGUN, told)


@contextmanager
def whence(workdir: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Inside, a mistake with what a study names by relative paths says from where these go.

    Args:
        workdir: the study's.
        config: flat, as in its config.json.
    """
    try:
        yield
    except UserError as error:
        folder = Path((read_json(workdir / BEGUN) or {}).get("folder", ""))
        given = (value for value in config.values() if isinstance(value, str))
        # Of PATH:SPLIT, states:PATH,… and their kin, the path too.
        names = {part for value in given for part in (value, *re.split("[:,@]", value)) if part}
        if not any(_elsewhere(name, folder, str(error)) for name in names):
            raise
        where = f"{folder}, where" if folder.is_absolute() else "the folder in which"
        raise type(error)(
            f"{error}; relative paths of {workdir} go from {where} it was first run: run this "
            "command there"
        ) from None


def _elsewhere(name: str, folder: Path, told: str) -> bool:
    """Whether a relative path means another file, or none, than in the folder of a study."""
    if Path(name).is_absolute():
        return False
    if os.path.exists(folder / name):
        return not (os.path.exists(name) and os.path.samefile(folder / name, name))
    missing = re.search(r"no such|not exist|no folder", told) and not os.path.exists(name)
    return bool(missing and re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w/-])", told))


def begun(workdir: Path, command: str) -> tuple[str, dict[str, str]]:
    """The command that a workdir began with, and facts of it; `command` where that is not known."""
    told = read_json(workdir / BEGUN, ("command", "version", "date")) or {}
    facts = {"Page made by": f"zsg_jax {told_version()}"}
    if told:
        facts = {"Begun": f"{told['date']}, by zsg_jax {told['version']}"} | facts
        if command != told["command"]:
            facts["Last command"] = command  # by which it may have grown
    return told.get("command", command), facts
