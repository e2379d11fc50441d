"""A workdir belongs to one config and one data set: what it holds, and who may go on with it."""

import datetime
import fcntl
import os
import re
import socket
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TextIO

from zsg_jax.runtime.buckets import is_address, spelled
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import PARTIAL, read_json, remove, write_json
from zsg_jax.runtime.processes import owning
from zsg_jax.runtime.settings import setting
from zsg_jax.runtime.shards import MANIFEST
from zsg_jax.runtime.version import told_version
from zsg_jax.workdir import growth

CONFIG = "config.json"
DATA = "data.json"
# What the study trains, as a config.json: the folder it began with may go.
MODEL = "model.json"
LEAKAGE = "leakage.json"
# What its page shows of the test rows that are scored.
SHOWN = "shown.jsonl"
# How a workdir came to be: command, version and date.
BEGUN = "begun.json"
# In the folder of an arrangement, the page that shows what it does.
EXPLAINED = "explain.html"
HUB = "hub.json"
# Here while a study was refused before anything was trained: another config may take the workdir.
REFUSED = "refused.json"
LOCK = ".lock"
TOKENIZER = "tokenizer"
TOKENS = "tokens"
SCRATCH = "scratch"
STUDIES = "studies"  # of a study that consists of others
# What is trained, and all that costs time to make; from then on a workdir is bound to its config.
TRAINED = ("pretraining", "runs")
ARRANGED = "arrangements"
MADE = ("embeddings", ARRANGED, *TRAINED)
# What another config would make otherwise; embeddings and tokens have manifests that tell.
_BOUND = (
    *(DATA, MODEL, HUB, BEGUN, MANIFEST, LEAKAGE, "leakage.jsonl", "duplicates.jsonl", SHOWN),
    *(TOKENIZER, ARRANGED),
)
# Facts of data.json that decide the numbers.
DIGESTS = {
    "train_digest": "the training instances",
    "test_digest": "the test instances",
    "tokenizer_digest": "the tokenizer",
    "template_digest": "the chat template",
    "weights_digest": "the weights it begins with",
}
# Of studies that reward texts or count their words, besides; of earlier versions only the first.
REWARD_DIGEST = "reward_digest"
MORE_DIGESTS = {
    REWARD_DIGEST: "the reward model",
    "reward_words_digest": "the tokenizer or the template of the reward model",
    "rouge_tokenizer_digest": "the tokenizer whose words ROUGE counts",
}
# Of studies that order by numbers of the rows: one for each column.
SCORES_DIGESTS = "scores_digests"


def run_folder(workdir: Path, name: str, seed: int) -> Path:
    """Where the run of one arrangement and seed is kept."""
    return workdir / "runs" / f"{name}-seed{seed}"


def pretraining_folder(workdir: Path, seed: int) -> Path:
    """Where the pretraining of the weights of one seed is kept."""
    return workdir / "pretraining" / f"pretraining-seed{seed}"


def arrangement_folder(workdir: Path, name: str) -> Path:
    """Where an arrangement is kept."""
    return workdir / ARRANGED / name


def refuse_address(folder: Path | str, flag: str = "--workdir") -> None:
    """Refuses gs://… and its kind, of which `Path` would make a local folder named `gs:`."""
    if is_address(folder):
        raise UserError(
            f"{flag} {spelled(folder)}: is no folder; mount the bucket (gcsfuse, rclone mount, "
            "s3fs) and give the folder where it is mounted"
        )


def refuse_foreign(workdir: Path) -> None:
    """Refuses an address, a file, and a folder that holds files but no config of a study."""
    refuse_address(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: is a file; give a folder")
    if workdir.is_dir() and not (workdir / CONFIG).exists():
        ours = (LOCK, CONFIG + PARTIAL)
        if any(path.name not in ours for path in workdir.iterdir()):
            raise UserError(
                f"--workdir {workdir}: holds files but no {CONFIG}; give an empty or a new folder"
            )
    refuse_no_study(workdir)


def refuse_no_study(workdir: Path) -> None:
    """Refuses a folder whose config.json another program wrote, as that of a model."""
    known = read_json(workdir / CONFIG)
    check(
        known is None or any(key.startswith("training.") for key in known),
        f"--workdir {workdir}: its {CONFIG} is no study's but, it may be, a model's; give an empty "
        "or a new folder",
    )


def check_output(output: Path, names: Collection[str], what: str) -> None:
    """Refuses an address, a file, and a folder that holds anything but files of these names.

    Args:
        output: what --output gives.
        names: patterns of names, as `fnmatch` takes them.
        what: writes such files.
    """
    refuse_address(output, "--output")
    check(
        output.is_dir() or not os.path.lexists(output),
        f"--output {output}: is a file; give a folder",
    )
    foreign = [
        path.name
        for path in (output.iterdir() if output.is_dir() else ())
        if not any(fnmatchcase(path.name, one) for one in (*names, LOCK, f"*{PARTIAL}"))
    ]
    check(
        not foreign,
        f"--output {output}: holds {', '.join(sorted(foreign)[:3])}, which no {what} wrote; give "
        "an empty or a new folder",
    )


@contextmanager
def locked(workdir: Path, flag: str = "--workdir", *, passing: bool = False) -> Iterator[None]:
    """Keeps others out of `workdir`, making it if need be; a kill ends the lock too.

    Where there are no locks, or somebody has deleted the file, another process may go on with it
    while this one is stopped: this one then ends before it puts anything else in place. So it does
    where the folder has been moved or deleted.

    Args:
        workdir: the folder.
        flag: what the user gave it as.
        passing: whether the folder, made for the lock alone, goes at the end.

    Raises:
        UserError: if another process is at work there, or it cannot be written.
    """
    refuse_address(workdir, flag)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a+", errors="replace")
    except OSError as error:
        raise UserError(f"{flag} {workdir}: cannot be written: {error.strerror}") from None
    # As long as it is open, no other folder has its number.
    with file, ExitStack() as stack:
        opened = os.open(workdir, os.O_RDONLY)
        stack.callback(os.close, opened)
        held = _take(file, workdir, flag)
        claimed = False  # whether there has been a config

        def check_held() -> None:
            nonlocal claimed
            with suppress(OSError):
                there = (workdir / CONFIG).exists()
                try:
                    found = (workdir / LOCK).read_text(errors="replace")
                    claimed = claimed or there
                except FileNotFoundError:
                    check(
                        workdir.is_dir()
                        and os.path.samestat(workdir.stat(), os.fstat(opened))
                        and (there or not claimed),
                        f"{flag} {workdir}: has been moved or deleted while this process was at "
                        "work there; it ends here, and where the folder is now the same command "
                        "goes on",
                    )
                    return
                if found not in (held, ""):
                    raise UserError(
                        f"{flag} {workdir}: another process{_holder(found)} has gone on with it "
                        "since; this one ends, and leaves it alone"
                    )

        with owning(check_held):
            try:
                yield
            except (OSError, LookupError):
                # What is not found need not be told where nothing is.
                check_held()
                raise
            finally:
                if passing:
                    remove(workdir)


def _take(file: TextIO, workdir: Path, flag: str) -> str:
    """Locks an open file, if there are locks, and writes in it who holds it: what is returned."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"{flag} {workdir}: another process is at work there{_holder(file.read(200))}; "
            f"wait for it, end it if it stands still, or give another {flag}"
        ) from None
    except OSError:
        # Some network and bucket file systems have no locks; there, care is the user's.
        pass
    held = f" ({os.getpid()} on {socket.gethostname()})\n{uuid.uuid4().hex}\n"
    with suppress(OSError):  # a full disk is told where it matters
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), held.encode())
    return held


def _holder(content: str) -> str:
    """Who wrote a lock, in brackets."""
    return content.partition("\n")[0].rstrip()


def check_shared(workdir: Path, *, patience: float = 10) -> None:
    """Makes sure that this process sees what the first has claimed.

    Args:
        workdir: as on the first process.
        patience: seconds that a network file system may take to show a new file.

    Raises:
        UserError: if it does not, as when every host has a disk of its own.
    """
    until = time.monotonic() + patience
    while not (workdir / CONFIG).exists():
        if time.monotonic() > until:
            raise UserError(
                f"--workdir {workdir}: {socket.gethostname()} does not see the {CONFIG} that "
                "process 0 wrote there; give a folder that all hosts share"
            )
        time.sleep(0.1)


def claim(workdir: Path, config: dict[str, Any]) -> bool:
    """Makes `workdir` this config's own, or checks that it already is.

    Args:
        workdir: a folder that `refuse_foreign` has let pass.
        config: flat, as `config.flatten` gives it.

    What may change and be added, `growth` says.

    Returns:
        Whether nothing was there that binds it.

    Raises:
        UserError: naming every key whose value differs.
    """
    known = read_json(workdir / CONFIG)
    new = (workdir / REFUSED).exists() or not _holds(workdir, MADE)
    if known is not None:
        different = [
            f"{key} is {known.get(key)!r} there, {config.get(key)!r} here"
            for key in sorted(known.keys() | config.keys())
            if not growth.agree(key, known, config)
        ]
        if different and not new:
            raise UserError(
                f"--workdir {workdir}: belongs to another config ({'; '.join(different)}"
                f"{growth.why(known, config)}); give another --workdir, or the config it was made "
                "with"
            )
        if different:
            # A first try that failed before anything was made, or was refused, binds nobody.
            for name in _BOUND:
                remove(workdir / name)
    write_json(workdir / CONFIG, config)
    remove(workdir / REFUSED)
    return new


def trained(workdir: Path) -> dict[str, int]:
    """The files of all runs, and their bytes."""
    return {
        str(path): path.stat().st_size
        for study in _studies(workdir)
        for part in TRAINED
        for path in (study / part).rglob("*")
        if path.is_file()
    }


def _studies(workdir: Path) -> list[Path]:
    """A workdir, and those of the studies that it consists of."""
    return [workdir, *(workdir / STUDIES).glob("*")]


def _holds(workdir: Path, parts: Collection[str]) -> bool:
    return any((study / part).exists() for study in _studies(workdir) for part in parts)


def release(workdir: Path) -> None:
    """Gives a workdir in which nothing was trained, and whose config was refused, to any other."""
    if _holds(workdir, (*MADE, TOKENS)):
        write_json(workdir / REFUSED, {})
    else:
        for name in (*_BOUND, SCRATCH, STUDIES, CONFIG):
            remove(workdir / name)


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


def claim_data(workdir: Path, facts: dict[str, Any]) -> None:
    """Records what the inputs were, or checks that they are still the same.

    Args:
        facts: counts, and the digests that `DIGESTS` and its kin name.

    Raises:
        UserError: naming the input that has changed since.
    """
    check_data(workdir, facts)
    write_json(workdir / DATA, facts)


def check_data(workdir: Path, facts: Mapping[str, Any]) -> None:
    """Refuses other inputs than those that `claim_data` has recorded, if it has."""
    known = read_json(workdir / DATA, required=DIGESTS) or {}
    changed = [
        what
        for key, what in (DIGESTS | MORE_DIGESTS).items()
        if key in known and known[key] != facts.get(key)
    ]
    scores = facts.get(SCORES_DIGESTS, {})
    changed += [
        f"the numbers {column!r} of the training instances"
        for column, digest in known.get(SCORES_DIGESTS, {}).items()
        if scores.get(column, digest) != digest
    ]
    check(
        not changed,
        f"{setting('workdir')} {workdir}: {', '.join(changed)} changed since it was made; give "
        f"another {setting('workdir')}, or the inputs it was made with",
    )
