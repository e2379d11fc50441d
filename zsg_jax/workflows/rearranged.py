"""Runs in parts: after some steps what is left of the pool is arranged anew, by the run's own eyes.

What an example is near to changes as the model learns. So after the steps that the config names,
the training examples that the run has not met, and the test examples, are embedded by the hidden
states or the gradients of its checkpoint, and the same method arranges them. What was done is kept
in the run's folder, from which a killed run goes on: `rearranged/STEP/` holds the arrangement of
what was left, and ids.txt, the order of the whole run from its first step on.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.arrangement import make, written
from zsg_jax.arrangement.arrangement import load_arrangement, save_arrangement
from zsg_jax.arrangement.embedded import Embedded, embed_pair
from zsg_jax.arrangement.epochs import Anew, read_anew
from zsg_jax.arrangement.methods import check_least
from zsg_jax.config import flatten
from zsg_jax.data.batches.steps import Steps
from zsg_jax.data.dataset import Texts
from zsg_jax.data.pool import Pool
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.data.views import BOTH, PROMPT, conversations
from zsg_jax.models.gradients import select
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import write_bytes
from zsg_jax.runtime.processes import of_all, once
from zsg_jax.runtime.progress import bar, passes, say
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.encoders.address import States, read_encoder
from zsg_jax.similarity.encoders.conversations import Conversations, needed
from zsg_jax.similarity.encoders.registry import NAMED
from zsg_jax.similarity.encoders.states import read_layer
from zsg_jax.similarity.search.options import Search
from zsg_jax.training.checkpoint import Checkpoints
from zsg_jax.training.loop import TrainingRun
from zsg_jax.training.trainer import Trainer
from zsg_jax.workdir import decoders, hub
from zsg_jax.workdir.layout import rearranged_folder


class Again(NamedTuple):
    """What a run's pool is arranged anew with.

    Attributes:
        config: of the study.
        anew: after which steps, and by what of the run.
        name: of the method.
        pool: all examples.
        steps_of: lays an order, (n,) int64, into steps.
        mesh: over which examples are compared.
    """

    config: ConfigDict
    anew: Anew
    name: str
    pool: Pool
    steps_of: Callable[[np.ndarray], Steps]
    mesh: Mesh


def check_anew(
    anew: Anew, totals: Mapping[str, int], left: int, workdir: Path, checkpoints: Path | str
) -> None:
    """Refuses what no run could do, before any is trained.

    Args:
        anew: what the config asks for.
        totals: the steps of each arrangement's runs.
        left: rows of the pool that a run has not met when it is arranged anew for the last time.
        workdir: of the study.
        checkpoints: where those of a run are written.

    Raises:
        UserError: a run is over before it is arranged anew, too few rows are left then, or its
            states cannot be read.
    """
    if not anew.steps:
        return
    for name, total in totals.items():
        check(
            anew.steps[-1] < total,
            f"{setting('training.epochs')}: ends with step {anew.steps[-1]}, but {name} has "
            f"{total}; give earlier ones",
        )
        check_least(name, left, f" that are left after step {anew.steps[-1]}")
    check(
        isinstance(checkpoints, Path) and "," not in str(workdir),
        f"{setting('training.epochs')}: states are not read from {checkpoints}; give a workdir in "
        "a folder, without a comma in its name",
    )


def check_anew_encoder(
    config: ConfigDict,
    orders: Iterable[np.ndarray],
    pool: Pool,
    trainer: Trainer,
    tokenizer: Tokenizer,
    workdir: Path,
) -> None:
    """Refuses what the encoder of a run would, before any is trained.

    Args:
        config: of the study.
        orders: (n,) int64 each, of the runs before they are arranged anew.
        pool, trainer, tokenizer: of the study.
        workdir: keeps the commits that names of the hub stand for.

    Raises:
        UserError: there is no such layer or parameter, or a row that is left gives no such tokens.
    """
    anew = read_anew(config.training.epochs)
    if not anew.steps:
        return
    name, met = anew.encoder("RUN", anew.steps[0]), anew.steps[0] * config.training.batch_size
    settings = read_encoder(name)
    assert settings is not None  # `Anew` names no other kind
    changes = {key: x for key in ("template", "truncation") if (x := getattr(settings, key))}
    try:
        if isinstance(settings, States):
            read_layer(settings, trainer.model)
        else:
            shapes, adapted = trainer.abstract_state["params"], bool(config.model.lora.rank)
            select(shapes, settings.weights, adapted=adapted, told=name)
        if not changes and not needed(settings):
            return  # any row gives tokens, as in training
        folder = hub.folder(config.tokenizer, workdir)
        form = decoders.form_of(name, flatten(config), tokenizer, folder, changes)
        made = Conversations(name, trainer.model, tokenizer, form, settings.length)
        left = [np.setdiff1d(pool.usable, order[:met]) for order in orders]
        view = conversations(config.similarity.text)
        for rows in (pool.train.select(np.unique(np.concatenate(left))), pool.test):
            for _ in made.tokens(Texts(rows, view), needed(settings)):
                pass
    except UserError as error:
        raise UserError(f"{setting('training.epochs')}: {error}") from None


def _embedded(config: ConfigDict) -> Embedded:
    """What of an example a run embeds: as the study, with the prompts that have a place there.

    Turns in a model's form have none, and a prompt by name is the encoder's of the study.
    """
    text, prompts = config.similarity.text, ("train_prompt", "test_prompt")
    if text in (BOTH, PROMPT):
        return Embedded(text)
    own = (config.similarity[one] or "" for one in prompts)
    train, test = (None if one.startswith(NAMED) else one for one in own)
    return Embedded(text, train, test)


def method_options(config: ConfigDict, methods: Iterable[str]) -> make.MethodOptions:
    """How a study's config says that `methods` are to be arranged by."""
    return make.MethodOptions(
        tuple(methods),
        seed=config.arrangement.seed,
        budget=config.arrangement.budget,
        distance=config.similarity.distance,
        w_min=config.arrangement.w_min,
        w_avg=config.arrangement.w_avg,
        deduplicate=config.arrangement.deduplicate,
    )


def parts(run: TrainingRun, again: Again) -> Iterator[TrainingRun]:
    """The parts of a run, each to be trained before the next is asked for.

    Raises:
        UserError: what is left does not suffice, or what was made is damaged or of another run.
    """
    ends, batch_size = again.anew.steps, again.config.training.batch_size
    run = run._replace(measured=ends)
    for end in ends:
        folder = rearranged_folder(run.folder, end)
        used = run.steps.order[: end * batch_size]
        if not of_all((folder / written.IDS).exists())[0]:
            # A run that has gone further since arranges again what it was going on with.
            if not of_all(Checkpoints(run.checkpoints).is_whole(end))[0]:
                yield run._replace(until=end)
            _arrange_rest(run, used, end, folder, again)
        rest, facts = load_arrangement(folder)
        check(
            facts.get("used_sha256") == _digest(used),
            f"{folder}: follows other instances than the run has met; delete {run.folder} to train "
            "this run from the start",
        )
        run = run._replace(steps=again.steps_of(np.concatenate([used, rest.order])))
    yield run


def _arrange_rest(run: TrainingRun, used: np.ndarray, end: int, folder: Path, again: Again) -> None:
    config, pool = again.config, again.pool
    left, wanted = np.setdiff1d(pool.usable, used), len(run.steps.order) - len(used)
    say(f"{run.folder.name}: {len(left):,} rows are arranged anew after step {end}")
    pair = embed_pair(
        pool.train.select(left),
        pool.test,
        again.anew.encoder(str(run.folder), end),
        folder / "embeddings",
        embedded=_embedded(config),
        dtype=config.similarity.dtype,
        train_indices=left,
        test_indices=pool.answered,
    )
    options = method_options(config, (again.name,))
    if options.budget is not None:
        options = replace(options, budget=wanted)
    with bar(None, "similarity") as progress:
        search = Search(again.mesh, config.similarity.block_rows, passes(progress))
        compared = make.compare(pair, options, toward=pool.aimed, search=search)
        try:
            made = make.make(again.name, compared, config.arrangement.seed)
        except UserError as error:
            raise UserError(f"{run.folder.name}, arranged anew after step {end}: {error}") from None
    rest, total = made.arrangement, run.total * config.training.batch_size
    check(
        len(used) + len(rest) >= min(total, len(run.steps.order)),
        f"{run.folder.name}, arranged anew after step {end}: {again.name} gives {len(rest):,} of "
        f"the {wanted:,} rows that are wanted; give fewer training.steps, or another method",
    )
    facts = {
        "name": again.name,
        "after_step": end,
        "used_sha256": _digest(used),
        **pair.encoder_facts,
        **made.facts,
    }
    ids = written.id_lines(pool.train.ids, np.concatenate([used, rest.order]))

    def write() -> None:
        save_arrangement(rest, folder, facts)
        # Written last: where it stands, the folder is whole.
        write_bytes(folder / written.IDS, ids)

    once(f"arrange {folder.parent.parent.name} after {end}", write)


def _digest(order: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(order, "<i8").tobytes()).hexdigest()
