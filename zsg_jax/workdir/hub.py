"""Folders of the Hugging Face hub, fetched only where `hub:OWNER/NAME[@REVISION]` is given.

A workdir keeps the commit that a name stood for in hub.json, so that going on takes the same files,
out of the cache of huggingface_hub and without asking the hub again. No code and nothing pickled is
fetched.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zsg_jax.data.formats.tables import HUB
from zsg_jax.data.tokenize.tokenizer import FILES
from zsg_jax.runtime.errors import UserError, check, first_line
from zsg_jax.runtime.files import read_json, write_json
from zsg_jax.runtime.progress import say
from zsg_jax.workdir import layout

_MODEL = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")
_ENCODERS = ("*.json", "*.safetensors", "chat_template.jinja")
# Where some hold the same weights again, as their owner's own program or another runtime reads
# them. Folders with a number are modules of a sentence encoder, as 1_Pooling.
_COPIES = ["[!0-9]*/*", "consolidated*"]


def is_name(given: str) -> bool:
    """Whether `given` names a folder of the hub and none on this disk."""
    return given.startswith(HUB)


def fetch(
    workdir: Path,
    *,
    models: Iterable[str] = (),
    tokenizers: Iterable[str] = (),
    adapters: Iterable[str] = (),
    encoders: Iterable[str] = (),
    like: Iterable[str | Path] = (),
) -> None:
    """Fetches those that are names of the hub, at the commit that `workdir` knows, if it does.

    Args:
        workdir: its hub.json then holds the commit and the files of each.
        models, tokenizers, adapters, encoders: names and folders of which these files are read; a
            name may be of several.
        like: workdirs whose commit is taken of a name that this one does not know yet, of the first
            that knows it.

    Raises:
        UserError: a name is none, or huggingface_hub is not installed, cannot reach the hub, or is
            not given the folder.
    """
    wanted: dict[str, list[str]] = {}
    kinds = (models, _MODEL), (tokenizers, FILES), (adapters, _ADAPTERS), (encoders, _ENCODERS)
    for names, files in kinds:
        for name in dict.fromkeys(filter(is_name, names)):
            wanted.setdefault(name, []).extend(files)
    known = read_json(workdir / layout.HUB) or {}
    others = [read_json(Path(one) / layout.HUB) or {} for one in like]
    for name, patterns in wanted.items():
        kept = known.get(name)
        if name in known and (not isinstance(kept, dict) or {*patterns} <= {*kept["files"]}):
            continue  # what is no such record is refused where it is needed
        # A model may be wanted as a tokenizer too, later.
        asked = list(dict.fromkeys([*(kept["files"] if kept else ()), *patterns]))
        found = kept or next((one[name] for one in others if name in one), None)
        commit = _snapshot(name, found["commit"] if found else None, asked).name
        if not kept:
            say(f"{name}: is taken at commit {commit}")
        known[name] = {"commit": commit, "files": asked}
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / layout.HUB, known)


def folder(name: str, workdir: Path | None, *, ask: bool = True) -> str:
    """The local folder that a name of the hub stands for in `workdir`; other names as they are.

    Args:
        ask: fetch the commit again where the cache has lost it.

    Raises:
        UserError: `fetch` has not had this name here, or as `fetch`.
    """
    if not is_name(name):
        return name
    kept: Any = (read_json(workdir / layout.HUB) or {}).get(name) if workdir else None
    check(
        isinstance(kept, dict) and {"commit", "files"} <= kept.keys(),
        f"{name}: {workdir}/{layout.HUB} names no commit of it; run the study there again",
    )
    try:
        return str(_snapshot(name, kept["commit"], kept["files"], cached=True))
    except UserError:
        if not ask:
            raise
    return str(_snapshot(name, kept["commit"], kept["files"]))


def _snapshot(name: str, commit: str | None, files: list[str], *, cached: bool = False) -> Path:
    """The folder in the cache; huggingface_hub calls it after the commit."""
    found = re.fullmatch(re.escape(HUB) + r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?:@(\S+))?", name)
    if found is None:
        raise UserError(f"{name}: is no name of the hub; write {HUB}OWNER/NAME[@REVISION]")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(
            f"{name}: needs huggingface_hub: pip install huggingface_hub, or give a local folder"
        ) from None
    repository, revision = found.groups()
    try:
        path = huggingface_hub.snapshot_download(
            repository,
            revision=commit or revision,
            allow_patterns=files,
            ignore_patterns=_COPIES,
            local_files_only=cached,
        )
    # The first is a kind of the third.
    except errors.GatedRepoError:
        raise UserError(
            f"{name}: asks for consent; give it on https://huggingface.co/{repository}, then run "
            "hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{name}: has no revision {commit or revision}; choose one of those listed on "
            f"https://huggingface.co/{repository}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name}: is not on the hub, or is private; check the name, or run hf auth login"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise UserError(
            f"{name}: is not in the cache and the hub cannot be reached; go online once, or give a "
            "local folder"
        ) from None
    # Whatever else goes wrong on the way there comes in types of many libraries.
    except Exception as error:
        raise UserError(
            f"{name}: cannot be fetched: {first_line(error)}; try again, or give a local folder"
        ) from None
    return Path(path)
