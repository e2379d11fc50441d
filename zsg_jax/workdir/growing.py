"""A config that a workdir grows to: until it has trained something, the one before is kept."""

import hashlib
import json
from pathlib import Path
from typing import Any

from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import PARTIAL, read_json, remove, write_json
from zsg_jax.training.belongs import FILE as BELONGS
from zsg_jax.training.loggers import TENSORBOARD
from zsg_jax.workdir import layout

# What is trained; from then on a workdir is bound to its config.
TRAINED = ("pretraining", "runs")


def keep_before(workdir: Path, config: dict[str, Any]) -> None:
    """Keeps the config that is about to become `config`, if it is another."""
    before = read_json(workdir / layout.CONFIG)
    if before not in (None, config):
        data, told = read_json(workdir / layout.DATA), _belongs(workdir)
        kept = {
            "config": before,
            "data": data,
            "belongs": {one.relative_to(workdir).as_posix(): read_json(one) for one in told},
            "trained": _state(workdir),
        }
        write_json(workdir / layout.GROWS, kept | {"sha256": _digest(kept)})


def step_back(workdir: Path) -> None:
    """Ends a growth: the config before takes its place again if nothing was trained since.

    With it goes what `data.json` and the runs told then. For the start after a kill, and for a
    study that fails.

    Raises:
        UserError: what was kept is damaged.
    """
    parts = ("config", "data", "belongs", "trained", "sha256")
    kept = read_json(workdir / layout.GROWS, parts)
    if kept is not None:
        check(
            kept.pop("sha256") == _digest(kept),
            f"{workdir / layout.GROWS}: is damaged; put it back, or delete it: the workdir is then "
            f"of the config and the inputs that {layout.CONFIG} and {layout.DATA} tell of",
        )
    if kept is not None and kept["trained"] == _state(workdir):
        for path in _belongs(workdir):
            before = kept["belongs"].get(path.relative_to(workdir).as_posix())
            if before is None:
                remove(path)
            elif before != read_json(path):
                write_json(path, before)
        for name, content in ((layout.DATA, kept["data"]), (layout.CONFIG, kept["config"])):
            if content is not None:
                write_json(workdir / name, content)
    end(workdir)


def end(workdir: Path) -> None:
    """Ends a growth: the workdir is that of the grown config."""
    remove(workdir / layout.GROWS)


def has_trained(workdir: Path) -> bool:
    """Whether anything was trained."""
    return bool(_trained(workdir))


def studies(workdir: Path) -> list[Path]:
    """A workdir, and those of the studies that it consists of."""
    return [workdir, *(workdir / layout.STUDIES).glob("*")]


def _trained(workdir: Path) -> dict[str, int]:
    """The files of all runs that hold what was trained, and their bytes."""
    return {
        path.relative_to(workdir).as_posix(): path.stat().st_size
        for path in _files(workdir)
        if path.name != BELONGS and path.parent.name != TENSORBOARD
    }


def _belongs(workdir: Path) -> list[Path]:
    """What runs tell of what they belong to."""
    return [path for path in _files(workdir) if path.name == BELONGS]


def _files(workdir: Path) -> list[Path]:
    return [
        path
        for study in studies(workdir)
        for part in TRAINED
        for path in (study / part).rglob("*")
        if path.is_file() and not path.name.endswith(PARTIAL)
    ]


def _state(workdir: Path) -> str:
    return _digest(_trained(workdir))


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
