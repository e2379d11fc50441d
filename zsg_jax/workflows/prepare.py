"""Sources, and what to take of them, to a folder that TFDS and `--train FOLDER:train` read."""

import dataclasses
import hashlib
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from zsg_jax.data.formats import natural_instructions
from zsg_jax.data.formats.fields import parse_fields
from zsg_jax.data.formats.natural_instructions.options import from_text
from zsg_jax.data.formats.tfds import write as shards
from zsg_jax.data.formats.tfds.layout import FEATURES, INFO, MANIFEST, Split, features, info
from zsg_jax.data.formats.tfds.plan import MEGABYTE, SplitPlan, plan_split
from zsg_jax.data.instances import Instances
from zsg_jax.data.schemas.read import FLAG_ADVICE, BadRow, tell_skipped
from zsg_jax.data.sources import load
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import file_digest, move, need_json, read_json, write_json
from zsg_jax.runtime.progress import count, say
from zsg_jax.workdir import claims as workdir
from zsg_jax.workflows.prepare_options import Request, check_request

PLAN = "plan.json"
TOLD = 1000  # bad rows that the manifest lists
# What of a split tells data sets apart, in words.
TELLING = {
    "rows": "rows",
    "instances_digest": "instances",
    "tasks": "tasks",
    "starts": "shards; give the --shard-mb or --shard-rows it was made with",
}


def run(request: Request) -> Path:
    """Writes what `request` names as version VERSION of the data set in its `output` folder.

    The version's folder comes whole or not at all; until then it is `incomplete.VERSION`, from
    which the same command goes on. It holds the shards, features.json, dataset_info.json, and
    manifest.json: for each split its source, rows, rows by task, instances_digest and shards with
    their SHA-256.

    Returns:
        The folder of the version.

    Raises:
        UserError: for every mistake that a user can mend; also where the version is there already
            and holds other instances.
    """
    check_request(request)
    root, name = request.output, request.output.name
    if root.exists() and not root.is_dir():
        raise UserError(f"--output {root}: is a file; give a folder")
    with ExitStack() as stack:
        stack.enter_context(workdir.locked(root, flag="--output"))
        sides, skipped = _opened(request, root / "scratch", stack)
        plans = [
            plan_split(side, instances, request.shard_mb * MEGABYTE, request.shard_rows)
            for side, instances in sides.items()
        ]
        facts: dict[str, Any] = {
            "name": name,
            "version": request.version,
            "splits": {plan.name: plan.facts() for plan in plans},
        }
        done = root / request.version
        if done.exists():
            _check_done(done, facts, plans, sides)
            return done
        folder = root / f"incomplete.{request.version}"
        _claim(folder, facts)
        written = {
            plan.name: shards.write_split(folder, name, plan, sides[plan.name]) for plan in plans
        }
        for side, parts in written.items():
            facts["splits"][side] |= {
                "source": _source(request, side),
                "shards": [one._asdict() for one in parts],
            }
        _described(folder, name, request.version, facts["splits"])
        write_json(folder / MANIFEST, facts | _skipped(skipped))
        move(folder, done)
        _tidy(done)
    for plan in plans:
        say(
            f"{plan.name}: {count(plan.rows, 'row')} of {count(len(plan.tasks), 'task')} in "
            f"{count(len(plan.starts), 'shard')}, instances digest {plan.digest[:12]}"
        )
    return done


def _opened(
    request: Request, scratch: Path, stack: ExitStack
) -> tuple[dict[str, Instances], list[BadRow]]:
    train, test, skipped = load(
        request.train,
        request.test,
        bad_rows=request.bad_rows,
        rewrites_options={},
        advice=FLAG_ADVICE,
        format=request.data_format,
        flag="--data-format",
        fields=parse_fields(request.data_fields, "--data-fields"),
        tasks_options=from_text(
            request.natural_instructions,
            dataclasses.replace(natural_instructions.WHOLE, seed=request.seed),
        ),
        split=request.split,
        train_per_task=request.train_per_task,
        test_per_task=request.test_per_task,
        seed=request.seed,
        scratch=scratch,
        stack=stack,
    )
    tell_skipped(skipped, len(skipped), f"; {MANIFEST} lists the first {TOLD:,}")
    return {"train": train} | ({"test": test} if request.test else {}), skipped


def _claim(folder: Path, facts: dict[str, Any]) -> None:
    """Makes the unfinished folder, or goes on in it if it is of the same plan."""
    try:
        known = read_json(folder / PLAN)
    except UserError:
        known = None
    if folder.exists() and known != facts:
        say(f"{folder}: was begun of other rows or with other shards; it is begun again")
        shutil.rmtree(folder)
    write_json(folder / PLAN, facts)


def _tidy(done: Path) -> None:
    """Takes away what only an unfinished version needs; a kill may leave it in a finished one."""
    shards.forget(done)
    (done / PLAN).unlink(missing_ok=True)


def _check_done(
    done: Path, facts: dict[str, Any], plans: list[SplitPlan], sides: dict[str, Instances]
) -> None:
    """Checks a finished version and mends its shards; refuses one that holds something else."""
    manifest = need_json(done / MANIFEST, ("splits",), "give another --version")
    recorded = manifest["splits"]
    for side in sorted(recorded.keys() | facts["splits"].keys()):
        there, here = recorded.get(side), facts["splits"].get(side)
        if there is None or here is None:
            raise _differs(done, f"{side} is {'not ' * (there is None)}there")
        for key in here:
            if there.get(key) != here[key]:
                raise _differs(done, f"its {side} has other {TELLING[key]}")
    _tidy(done)
    mended = [
        file
        for plan in plans
        for file in shards.mend(
            done,
            manifest["name"],
            plan,
            sides[plan.name],
            [shards.Shard(**one) for one in recorded[plan.name]["shards"]],
        )
    ]
    mended += _described(done, manifest["name"], manifest["version"], recorded)
    how = f"{count(len(mended), 'file')} mended" if mended else "whole"
    say(f"{done}: was there already, {how}")


def _described(folder: Path, name: str, version: str, splits: dict[str, Any]) -> list[str]:
    """Writes the files by which TFDS knows a data set, unless they are there; those written."""
    told = [
        Split(
            side,
            tuple(one["rows"] for one in facts["shards"]),
            sum(one["bytes"] for one in facts["shards"]),
        )
        for side, facts in splits.items()
    ]
    written = []
    for file, content in ((FEATURES, features()), (INFO, info(name, version, told))):
        path = folder / file
        try:
            known = read_json(path)
        except UserError:
            known = None
        if known != content:
            write_json(path, content)
            written.append(file)
    return written


def _differs(done: Path, how: str) -> UserError:
    first, second, third = done.name.split(".")
    following = f"{first}.{second}.{int(third) + 1}"
    return UserError(
        f"--version {done.name}: {done} holds another data set: {how}; give a new one beside it, "
        f"as --version {following}"
    )


def _source(request: Request, side: str) -> dict[str, str]:
    path = Path(getattr(request, side))
    return {"path": str(path), "digest": _digest(path)}


def _digest(path: Path) -> str:
    """SHA-256 of a source's file, or over its folder's files' names and digests; else ""."""
    if path.is_file():
        return file_digest(path)
    digest = hashlib.sha256()
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else []
    for one in files:
        digest.update(f"{one.relative_to(path).as_posix()}\0{file_digest(one)}\n".encode())
    return digest.hexdigest() if files else ""


def _skipped(skipped: list[BadRow]) -> dict[str, Any]:
    return {"skipped": len(skipped), "skipped_rows": [row._asdict() for row in skipped[:TOLD]]}
