"""A study's orders: looks for leaks, makes the arrangements that are missing, and loads all."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.arrangement import make, written
from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.embedded import Embedded, EmbeddedPair, embed_pair
from zsg_jax.arrangement.epochs import read_anew
from zsg_jax.config import flatten
from zsg_jax.data.pool import Pool
from zsg_jax.leakage.find import FILE as PAIRS
from zsg_jax.leakage.options import LeakageOptions, near_in
from zsg_jax.runtime.files import need_json, write_json
from zsg_jax.runtime.processes import by_first, once
from zsg_jax.runtime.progress import bar, passes
from zsg_jax.similarity.search.options import Search
from zsg_jax.workdir import claims, layout
from zsg_jax.workflows.explained import explainer
from zsg_jax.workflows.rearranged import method_options

# In leakage.json, the numbers of the training rows that are left out, of all that were read.
LEFT_OUT = "left_out"

# What decides an order of given rows, and what is told of its similarity.
_DECIDE = (
    *("arrangement.budget", "arrangement.seed", "arrangement.deduplicate", "similarity.distance"),
    *("arrangement.w_min", "arrangement.w_avg", "similarity.trajectory"),
    *("evaluation.every", "training.batch_size", "training.epochs", "data.report_fraction"),
)


class Orders(NamedTuple):
    """What is trained on.

    Attributes:
        arrangements: by name.
        pool: of which the rows are usable that could be chosen but for duplicates.
    """

    arrangements: dict[str, Arrangement]
    pool: Pool


def arrange_pool(
    config: ConfigDict,
    workdir: Path,
    pool: Pool,
    mesh: Mesh,
    *,
    methods: Sequence[str],
    encoder: str = "",
    explained: Collection[str] | None = None,
) -> Orders:
    """Looks for leaks and makes arrangements where they are not there yet, and loads all.

    Args:
        config, workdir: of the study.
        pool: all examples.
        mesh: over which they are compared.
        methods: the arrangements.
        encoder: what similarity.encoder stands for; "": that itself.
        explained: the arrangements of which a page is made; None: all.

    Raises:
        UserError: every training row leaks and is to be left out, or what is there is damaged or
            was made from others.
    """
    folders = {name: layout.arrangement_folder(workdir, name) for name in methods}
    wanted, looked = by_first(
        lambda: (
            [
                name
                for name, folder in folders.items()
                if not written.is_made(folder) or is_short(config, folder)
            ],
            was_looked_for_leaks(workdir),
        )
    )
    if wanted or not looked:
        missing = {name: folders[name] for name in wanted}
        _make(config, workdir, pool, mesh, folders, missing, looked, encoder, explained)
    arrangements = written.load_all(folders, _provenance(config, workdir, pool), pool.train.ids)
    kept = np.setdiff1d(pool.usable, _left_out(config, workdir))
    return Orders(arrangements, pool._replace(usable=kept))


def steps_held(config: ConfigDict, arrangement: Path) -> int:
    """The steps that an arrangement that is made holds, in all epochs."""
    training = config.training
    return written.steps_held(arrangement, training.batch_size, len(training.epochs))


def steps_wanted(config: ConfigDict, arrangement: Path) -> int:
    """The steps that are wanted in the order of an arrangement that is made."""
    return config.training.steps or steps_held(config, arrangement)


def is_short(config: ConfigDict, arrangement: Path) -> bool:
    """Whether an arrangement that is made was followed for fewer steps than it can be by now."""
    # It is followed through the first epoch, and as long as it is not made anew.
    training = config.training
    ends = (
        written.steps_held(arrangement, training.batch_size),
        *read_anew(training.epochs).steps[:1],
    )
    return not written.reaches(arrangement, min(steps_wanted(config, arrangement), *ends))


def was_looked_for_leaks(workdir: Path) -> bool:
    """Whether both files that tell them are there."""
    return all((workdir / name).exists() for name in (layout.LEAKAGE, PAIRS))


def _make(
    config: ConfigDict,
    workdir: Path,
    pool: Pool,
    mesh: Mesh,
    folders: dict[str, Path],
    missing: dict[str, Path],
    looked: bool,
    encoder: str,
    explained: Collection[str] | None,
) -> None:
    pair = embed_pair(
        pool.train.select(pool.usable),
        pool.test,
        encoder or config.similarity.encoder,
        workdir / "embeddings",
        embedded=Embedded(
            config.similarity.text,
            config.similarity.train_prompt,
            config.similarity.test_prompt,
            config.data.answers,
        ),
        dtype=config.similarity.dtype,
        cache=config.similarity.cache,
        train_indices=pool.usable,
        test_indices=pool.answered,
        home=workdir,
    )
    written.check_encoder(folders.values(), pair.encoder_facts)
    options, course = method_options(config, missing), _course(config)
    with bar(None, "similarity") as progress:
        search = Search(mesh, config.similarity.block_rows, passes(progress))
        compared = make.compare(
            pair,
            options,
            toward=pool.aimed,
            leaks=None if looked else _leak_search(config, workdir),
            known_leaks=_left_out(config, workdir) if looked else None,
            statistics=bool(missing) and "wsd" in course.measures,
            search=search,
        )
        if compared.leakage:
            once("write leakage", lambda: _write_leakage(config, workdir, compared, pair))
        if twins := compared.deduplicated:
            if any(map(written.is_made, folders.values())):
                twins.check_same(workdir)
            once("write duplicates", lambda: twins.write(workdir))
        written.make_and_write(
            missing,
            compared,
            options,
            course,
            provenance=_provenance(config, workdir, pool),
            search=search,
            explain=explainer(config, workdir, search, explained),
        )


def _leak_search(config: ConfigDict, workdir: Path) -> make.LeakSearch:
    near, pairs = config.arrangement.drop_leaks, f"pairs are in {workdir / PAIRS}"
    if near is None:
        told = LeakageOptions(near_in(config.similarity.encoder))
        return make.LeakSearch(workdir, told, pairs)
    return make.LeakSearch(workdir, LeakageOptions(near), f"they are left out; {pairs}", drop=True)


def _write_leakage(
    config: ConfigDict, workdir: Path, compared: make.Compared, pair: EmbeddedPair
) -> None:
    leakage, dropped = compared.leakage, config.arrangement.drop_leaks is not None
    assert leakage is not None
    told = {
        "sentence": leakage.sentence("they are left out" if dropped else ""),
        **pair.encoder_facts,
        **leakage.summary(),
        **({LEFT_OUT: compared.dropped.tolist()} if dropped else {}),
    }
    write_json(workdir / layout.LEAKAGE, told)


def _left_out(config: ConfigDict, workdir: Path) -> np.ndarray:
    """(k,) int64, the numbers of the training rows that a study leaves out because they leak."""
    if config.arrangement.drop_leaks is None:
        return np.zeros(0, np.int64)
    lost = "delete it to look for leaks again"
    return np.array(need_json(workdir / layout.LEAKAGE, (LEFT_OUT,), lost)[LEFT_OUT], np.int64)


def _provenance(config: ConfigDict, workdir: Path, pool: Pool) -> dict[str, Any]:
    """What all arrangements of a study are made from."""
    sets = [f"{one.name}: {one.share}, {one.budget}" for one in pool.test.sets]
    facts = {key: pool.facts[key] for key in ("train_digest", "test_digest")}
    facts["sets"] = sets or None
    facts[written.SETTINGS] = {key: flatten(config)[key] for key in _DECIDE}
    facts[written.SCORES] = need_json(workdir / layout.DATA).get(claims.SCORES_DIGESTS, {})
    if config.arrangement.drop_leaks is not None:
        out = _left_out(config, workdir)
        facts["rows_left_out_as_leaks"] = len(out)
        facts["left_out_digest"] = hashlib.sha256(out.astype("<i8").tobytes()).hexdigest()
    return facts


def _course(config: ConfigDict) -> written.Course:
    anew = read_anew(config.training.epochs)
    return written.Course(
        batch_size=config.training.batch_size,
        steps=min(filter(None, (config.training.steps, *anew.steps[:1])), default=None),
        every=config.evaluation.every,
        measures=config.similarity.trajectory,
        first=config.training.epochs[:1],
    )
