"""Sources, and what to take of them, to a folder that TFDS and `--train FOLDER:train` read."""

import dataclasses
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from zsg_jax.data.dataset import Dataset
from zsg_jax.data.formats import natural_instructions
from zsg_jax.data.formats.fields import parse_fields
from zsg_jax.data.formats.natural_instructions.options import from_text
from zsg_jax.data.formats.tfds.layout import FEATURES, INFO, MANIFEST, MORE, Split, features, info
from zsg_jax.data.formats.tfds.write import (
    MEGABYTE,
    Shard,
    SplitPlan,
    mend,
    plan_split,
    write_split,
)
from zsg_jax.data.reading import ReadOptions
from zsg_jax.data.schemas.read import BadRow, each_once, tell_skipped
from zsg_jax.data.sources import load
from zsg_jax.data.splits import Selection
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import content_digest, move, need_json, read_json, write_json
from zsg_jax.runtime.progress import count, say
from zsg_jax.runtime.settings import named_by
from zsg_jax.runtime.shards import Shards
from zsg_jax.workdir import lock
from zsg_jax.workflows.prepare_options import FLAGS, PrepareOptions, check_options

PLAN = "plan.json"
LISTED = 1000  # bad rows that the manifest lists
# What of a split tells data sets apart, in words.
FACTS = {
    "rows": "rows",
    "instances_digest": "instances",
    "tasks": "tasks",
    "categories_digest": "categories",
    "starts": "shards; give the --shard-mb or --shard-rows it was made with",
}


@named_by(FLAGS)
def run(options: PrepareOptions) -> Path:
    """Writes what `options` name as version VERSION of the data set in their `output` folder.

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
    check_options(options)
    root = options.output
    if root.exists() and not root.is_dir():
        raise UserError(f"--output {root}: is a file; give a folder")
    with ExitStack() as stack:
        stack.enter_context(lock.locked(root, flag="--output"))
        sides, skipped = _opened(options, root / "scratch", stack)
        plans = [
            plan_split(side, instances, options.shard_mb * MEGABYTE, options.shard_rows)
            for side, instances in sides.items()
        ]
        facts: dict[str, Any] = {
            "name": root.name,
            "version": options.version,
            "splits": {plan.name: plan.facts() for plan in plans},
        }
        done = root / options.version
        if done.exists():
            _mend(done, facts, plans)
            return done
        _write(options, done, facts, plans, skipped)
    for plan in plans:
        say(
            f"{plan.name}: {count(len(plan.instances), 'row')} of {count(len(plan.tasks), 'task')} "
            f"in {count(len(plan.starts), 'shard')}, instances digest {plan.digest[:12]}"
        )
    return done


def _write(
    options: PrepareOptions,
    done: Path,
    facts: dict[str, Any],
    plans: list[SplitPlan],
    skipped: list[BadRow],
) -> None:
    """Writes a version, or what an earlier command has not yet written of it."""
    folder = done.with_name(f"incomplete.{done.name}")
    shards = Shards(folder, facts, manifest=PLAN)
    more = _more(plans)
    splits = {
        plan.name: plan.facts()
        | {
            "source": _source(options, plan.name),
            "shards": [one._asdict() for one in write_split(shards, facts["name"], plan, more)],
        }
        for plan in plans
    }
    shards.finish(prune=True)
    _describe(folder, facts["name"], facts["version"], splits, more)
    told = {"skipped": len(skipped), "skipped_rows": [row._asdict() for row in skipped[:LISTED]]}
    write_json(folder / MANIFEST, facts | {"splits": splits} | told)
    move(folder, done)
    (done / PLAN).unlink()


def _opened(
    options: PrepareOptions, scratch: Path, stack: ExitStack
) -> tuple[dict[str, Dataset], list[BadRow]]:
    reading = ReadOptions(
        scratch,
        bad_rows=options.bad_rows,
        format=options.data_format,
        fields=parse_fields(options.data_fields),
        instructions=from_text(
            options.natural_instructions,
            dataclasses.replace(natural_instructions.WHOLE, seed=options.seed),
        ),
        keep_all=True,
        max_row_bytes=options.max_row_bytes,
    )
    selection = Selection(
        options.split, options.train_per_task, options.test_per_task, options.seed
    )
    train, test = load(
        options.train, options.test, reading, stack, rewrites_options={}, selection=selection
    )
    check(
        not test.sets,
        f'{options.test}: "share" and "budget" of a source would not be in the data set; take '
        "them out, or arrange from the mixture",
    )
    skipped = each_once(train.skipped, test.skipped)
    tell_skipped(skipped, len(skipped), f"; {MANIFEST} lists the first {LISTED:,}")
    return {"train": train} | ({"test": test} if options.test else {}), skipped


def _mend(done: Path, facts: dict[str, Any], plans: list[SplitPlan]) -> None:
    """Checks a finished version and mends its files; refuses one that holds something else."""
    manifest = need_json(done / MANIFEST, ("splits",), "give another --version")
    recorded = manifest["splits"]
    for side in sorted(recorded.keys() | facts["splits"].keys()):
        there, here = recorded.get(side), facts["splits"].get(side)
        if there is None or here is None:
            raise _differs(done, f"{side} is {'not ' * (there is None)}there")
        for key in FACTS:
            if there.get(key) != here.get(key):
                raise _differs(done, f"its {side} has other {FACTS[key]}")
    (done / PLAN).unlink(missing_ok=True)
    more = _more(plans)
    mended = _describe(done, manifest["name"], manifest["version"], recorded, more)
    for plan in plans:
        mended += mend(done, plan, [Shard(**one) for one in recorded[plan.name]["shards"]], more)
    how = f"{count(len(mended), 'file')} mended" if mended else "whole"
    say(f"{done}: was there already, {how}")


def _more(plans: list[SplitPlan]) -> tuple[str, ...]:
    """What instances of any split have besides; all records then have a place for it."""
    return tuple(name for name in MORE if any(name in plan.more for plan in plans))


def _describe(
    folder: Path, name: str, version: str, splits: dict[str, Any], more: Collection[str]
) -> list[str]:
    """Writes the files by which TFDS knows a data set, unless they are there; those written."""
    described = [
        Split(
            side,
            tuple(one["rows"] for one in facts["shards"]),
            sum(one["bytes"] for one in facts["shards"]),
        )
        for side, facts in splits.items()
    ]
    written = []
    for file, content in ((FEATURES, features(more)), (INFO, info(name, version, described))):
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


def _source(options: PrepareOptions, side: str) -> dict[str, str]:
    path = Path(getattr(options, side))
    return {"path": str(path), "digest": content_digest(path)}
