"""A workdir belongs to one config and one data set: what binds it, and what may still change."""

import os
import socket
import time
import uuid
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import PARTIAL, need_json, read_json, remove, write_json
from zsg_jax.runtime.processes import count, is_first, of_all
from zsg_jax.runtime.settings import setting
from zsg_jax.runtime.shards import MANIFEST
from zsg_jax.training.belongs import Belongs
from zsg_jax.workdir import growing, growth, layout
from zsg_jax.workdir.lock import refuse_address

# All that costs time to make; from then on a workdir is bound to its config.
MADE = ("embeddings", layout.ARRANGED, *growing.TRAINED)
# What another config would make otherwise; embeddings and tokens have manifests that tell.
_BOUND = (
    *(layout.DATA, layout.MODEL, layout.HUB, layout.BEGUN, layout.SHOWN, layout.TOKENIZER),
    *(layout.ARRANGED, layout.LEAKAGE, "leakage.jsonl", "duplicates.jsonl", MANIFEST),
)
# Facts of data.json that decide the numbers.
DIGESTS = {
    "train_digest": "the training instances",
    "test_digest": "the test instances",
    "tokenizer_digest": "the tokenizer",
    "template_digest": "the chat template",
    "weights_digest": "the weights it begins with",
}
# Of some studies, besides, all but the last of scores; those of earlier versions may not tell.
REWARD_DIGEST = "reward_digest"
TEXT_ENDS = "text_ends"
ENDS = "ends"  # what the former is of, in all studies: as for the next that goes on from a run
CATEGORIES = "categories_digest"
SHARES = "shares_digest"
MORE_DIGESTS = {
    REWARD_DIGEST: "the reward model",
    "reward_words_digest": "the tokenizer or the template of the reward model",
    "rouge_tokenizer_digest": "the tokenizer whose words ROUGE counts",
    CATEGORIES: "the categories of the test instances, by which scores are told,",
    TEXT_ENDS: "what ends a text by generation_config.json, beside the weights it begins with,",
    SHARES: "the shares of the target sets",
}
# What the pretraining of a study's model follows from.
_PRETRAINING = ("model.", "data.max_length", "training.packing")
# Of studies that order by numbers of the rows: one for each column.
SCORES_DIGESTS = "scores_digests"


def refuse_foreign(workdir: Path) -> None:
    """Refuses an address, a file, and a folder that holds files but no config of a study."""
    refuse_address(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir {workdir}: is a file; give a folder")
    if workdir.is_dir() and not (workdir / layout.CONFIG).exists():
        ours = (layout.LOCK, layout.CONFIG + PARTIAL)
        if any(path.name not in ours for path in workdir.iterdir()):
            raise UserError(
                f"--workdir {workdir}: holds files but no {layout.CONFIG}; give an empty or a new "
                "folder"
            )
    refuse_no_study(workdir)


def refuse_no_study(workdir: Path) -> None:
    """Refuses a folder whose config.json another program wrote, as that of a model."""
    known = read_json(workdir / layout.CONFIG)
    check(
        known is None or any(key.startswith("training.") for key in known),
        f"--workdir {workdir}: its {layout.CONFIG} is no study's but, it may be, a model's; give "
        "an empty or a new folder",
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
        if not any(fnmatchcase(path.name, one) for one in (*names, layout.LOCK, f"*{PARTIAL}"))
    ]
    check(
        not foreign,
        f"--output {output}: holds {', '.join(sorted(foreign)[:3])}, which no {what} wrote; give "
        "an empty or a new folder",
    )


def check_shared(workdir: Path, *, by_bucket: bool = False, patience: float = 10) -> None:
    """Makes sure that all processes see what the first writes, and not what lies on their disks.

    Args:
        workdir: as on the first process.
        by_bucket: whether it is each machine's copy of one, which brings the config.
        patience: seconds that a network file system may take to show a new file.

    Raises:
        UserError: on all of them, if one does not, as when every host has a disk of its own.
    """
    if count() == 1:
        return
    # A config may lie there from a study that this host ran before.
    sign = workdir / (layout.CONFIG if by_bucket else f".seen-{of_all(uuid.uuid4().hex)[0]}")
    if not by_bucket and is_first():
        sign.touch()
    of_all("written")
    until = time.monotonic() + patience
    while not (seen := sign.exists()) and time.monotonic() < until:
        time.sleep(0.1)
    blind = [host for host in of_all("" if seen else socket.gethostname()) if host]
    if not by_bucket and is_first():
        remove(sign)
    check(
        not blind,
        f"--workdir {workdir}: {', '.join(dict.fromkeys(blind))} does not see what process 0 wrote "
        "there; give a folder that all hosts share",
    )


def claim(workdir: Path, config: dict[str, Any]) -> bool:
    """Makes `workdir` this config's own, or checks that it already is.

    Args:
        workdir: a folder that `refuse_foreign` has let pass.
        config: flat, as `config.flatten` gives it.

    What may change and be added, `growth` says. A growth that was killed before it had trained
    anything is none.

    Returns:
        Whether nothing was there that binds it.

    Raises:
        UserError: naming every key whose value differs.
    """
    growing.step_back(workdir)
    known = read_json(workdir / layout.CONFIG)
    new = (workdir / layout.REFUSED).exists() or not _holds(workdir, MADE)
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
        elif _holds(workdir, MADE):
            growing.keep_before(workdir, config)
    write_json(workdir / layout.CONFIG, config)
    remove(workdir / layout.REFUSED)
    return new


def of_runs(workdir: Path) -> Belongs:
    """What the runs of a study that has claimed its workdir belong to."""
    config, data = need_json(workdir / layout.CONFIG), need_json(workdir / layout.DATA)
    inputs = {key: data[key] for key in DIGESTS | MORE_DIGESTS if key in data}
    return Belongs(growth.of_a_run(config), inputs, growth.agree_on_a_run)


def of_pretraining(workdir: Path) -> Belongs:
    """What the pretraining of its model belongs to; it may be that of another order or rate."""
    config, inputs, agree = of_runs(workdir)
    settings = {key: value for key, value in config.items() if key.startswith(_PRETRAINING)}
    made_of = {key: inputs[key] for key in ("tokenizer_digest", "weights_digest")}
    return Belongs(settings, made_of, agree)


def _holds(workdir: Path, parts: Collection[str]) -> bool:
    return any((study / part).exists() for study in growing.studies(workdir) for part in parts)


def release(workdir: Path) -> None:
    """Gives a workdir whose config was refused, if nothing was trained in it, to any other."""
    if growing.has_trained(workdir):
        return
    if _holds(workdir, (*MADE, layout.TOKENS)):
        write_json(workdir / layout.REFUSED, {})
    else:
        for name in (*_BOUND, layout.SCRATCH, layout.STUDIES, layout.CONFIG):
            remove(workdir / name)


def claim_data(workdir: Path, facts: dict[str, Any]) -> None:
    """Records what the inputs were, or checks that they are still the same.

    Args:
        facts: counts, and the digests that `DIGESTS` and its kin name.

    Raises:
        UserError: naming the input that has changed since.
    """
    check_data(workdir, facts)
    write_json(workdir / layout.DATA, facts)


def digests(facts: Mapping[str, Any]) -> dict[str, str]:
    """The digests among `facts` that decide the numbers, by what they are of."""
    named = (DIGESTS | MORE_DIGESTS).items()
    found = {what.rstrip(","): facts[key] for key, what in named if key in facts}
    scores = facts.get(SCORES_DIGESTS, {})
    return found | {f"the numbers {column!r}": digest for column, digest in scores.items()}


def check_data(workdir: Path, facts: Mapping[str, Any]) -> None:
    """Refuses other inputs than those that `claim_data` has recorded, if it has."""
    known = read_json(workdir / layout.DATA, required=DIGESTS) or {}
    changed = [
        what.rstrip(",")
        for key, what in (DIGESTS | MORE_DIGESTS).items()
        if key in known and known[key] != facts.get(key)
    ]
    scores = facts.get(SCORES_DIGESTS, {})
    changed += [
        f"the numbers {column!r} of the training instances"
        for column, digest in known.get(SCORES_DIGESTS, {}).items()
        if scores.get(column, digest) != digest
    ]
    if "test_ids" in known and known["test_ids"] != facts.get("test_ids"):
        changed.append("which test rows are scored")
    free = "" if growing.has_trained(workdir) else ", or delete it: nothing was trained in it"
    check(
        not changed,
        f"{setting('workdir')} {workdir}: {', '.join(changed)} changed since it was made; give "
        f"another {setting('workdir')}, or the inputs it was made with{free}",
    )
