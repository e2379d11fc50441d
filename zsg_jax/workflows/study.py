"""Runs a study's stages in order, going on where it was stopped."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.arrangement import written
from zsg_jax.arrangement.epochs import epochs, read_anew
from zsg_jax.arrangement.methods import columns
from zsg_jax.arrangement.spaces import fetched
from zsg_jax.config import flatten
from zsg_jax.data.batches.steps import Steps
from zsg_jax.data.pool import Pool
from zsg_jax.evaluation.evaluator import Evaluator
from zsg_jax.report.runs import ended_here
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import need_json, read_json
from zsg_jax.runtime.processes import by_first, once, same_everywhere
from zsg_jax.runtime.progress import duration, percent, say
from zsg_jax.runtime.version import source_digest
from zsg_jax.training import loop, metrics, sharding
from zsg_jax.training.finished import finished, left_open
from zsg_jax.training.flops import Speed
from zsg_jax.training.loggers import Logging, check_installed
from zsg_jax.training.optimizer import schedule
from zsg_jax.training.trainer import Trainer
from zsg_jax.workdir import begun, claims, hub, layout, lock, manifest
from zsg_jax.workdir.location import Workdir, open_workdir
from zsg_jax.workdir.trained import CHECKPOINTS
from zsg_jax.workflows.afterwards import measure_later, missing
from zsg_jax.workflows.evaluators import make_evaluators, with_folders
from zsg_jax.workflows.pretraining import pretrain
from zsg_jax.workflows.rearranged import Again, check_anew, check_anew_encoder, parts
from zsg_jax.workflows.study_data import (
    Reading,
    check_steps,
    claim_data,
    keep_shown,
    make_steps,
    open_pool,
)
from zsg_jax.workflows.study_model import find_origin, make_trainer, model_name
from zsg_jax.workflows.study_orders import (
    Orders,
    arrange_pool,
    is_short,
    steps_held,
    steps_wanted,
    was_looked_for_leaks,
)
from zsg_jax.workflows.validate import validate

# As many as a warm-up of LESS has (arXiv 2402.04333, section 5.1); they are small.
ADAPTERS_KEPT = 4


def run(config: ConfigDict, workdir: Path | str, *, command: str) -> Path:
    """Runs or resumes the study `config` in `workdir`.

    Args:
        config: as `config.default_config` documents it.
        workdir: a folder, made if missing, gs://BUCKET/PATH or s3://BUCKET/PATH; refused if it
            belongs to another config or other data.
        command: shown on the report page, if the workdir is new.

    Returns:
        The report page, `workdir/report/index.html`; of a bucket, the copy on this machine.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    whole = Part([(name, seed) for name in config.arrangement.methods for seed in config.seeds])
    with completed(config, workdir, command, whole) as folder:
        # Imported here: a mistake in the config is told before Matplotlib has been imported.
        from zsg_jax.report import build as report

        page, title = folder / "report" / "index.html", config.report.title
        once("report", lambda: report.build(folder, title=title, command=command, runs=whole.runs))
    return page


class Part(NamedTuple):
    """What of a study is computed, and what it takes from another one that it is a part of.

    Attributes:
        runs: (arrangement, seed) of those that are trained; without any, its model is pretrained,
            if it asks for that.
        start: the workdir whose pretrained weights the runs begin with; None: its own.
        encoder: what similarity.encoder stands for; "": that itself.
        explained: the arrangements of which a page is made; None: all.
        check_rows: refuses too few training rows, before anything is computed of them.
    """

    runs: Sequence[tuple[str, int]]
    start: Path | None = None
    encoder: str = ""
    explained: Collection[str] | None = None
    check_rows: Callable[[int], object] = lambda rows: None

    @property
    def methods(self) -> list[str]:
        """The arrangements that are trained in."""
        return list(dict.fromkeys(name for name, _ in self.runs))


@contextmanager
def completed(config: ConfigDict, workdir: Path | str, command: str, part: Part) -> Iterator[Path]:
    """Inside, all of a study is there but its report: runs it, or goes on with it.

    Args:
        config, workdir, command: as `run` takes them.
        part: what of it.

    Yields:
        The workdir, held by this process; of a bucket, its folder on this machine.

    Raises:
        UserError: as `run`.
    """
    validate(config, runs=part.runs)
    check_installed(config.logging)
    versions = {"version of jax": jax.__version__, "source of zsg_jax": source_digest()[:12]}
    location = open_workdir(workdir)
    bucket = {"--workdir in a bucket": location.address}  # folders may be mounted elsewhere
    same_everywhere({**flatten(config), **versions, **bucket})
    folder = location.folder
    with ExitStack() as stack:
        stack.enter_context(location.shared())

        def take() -> None:
            if location.address is None:
                claims.refuse_foreign(folder)
            stack.enter_context(lock.locked(folder))
            location.begin()
            claims.refuse_no_study(folder)
            for name in part.methods:
                made = layout.arrangement_folder(folder, name)
                if written.is_made(made):
                    _check_held(config.training.steps, steps_held(config, made), name)
            if stack.enter_context(manifest.claimed(folder, flatten(config))):
                begun.begin(folder, command)

        once("claim the workdir", take)
        claims.check_shared(folder, by_bucket=location.address is not None)
        if not by_first(lambda: _is_whole(config, folder, part)):
            _compute(config, location, part)
        yield folder


def _is_whole(config: ConfigDict, workdir: Path, part: Part) -> bool:
    """Whether nothing is left to make but the report."""
    if not part.runs:
        known = read_json(workdir / layout.DATA)
        scores = set(columns(config.arrangement.methods))
        return (
            known is not None
            and scores <= known.get(claims.SCORES_DIGESTS, {}).keys()
            and not _is_to_pretrain(config, workdir)
        )
    for name in part.methods:
        folder = layout.arrangement_folder(workdir, name)
        if not written.is_whole(folder) or is_short(config, folder):
            return False
    for name, seed in part.runs:
        steps = steps_wanted(config, layout.arrangement_folder(workdir, name))
        run = layout.run_folder(workdir, name, seed)
        if not finished(run, steps) or missing(config, run) or left_open(run):
            return False
    return was_looked_for_leaks(workdir)


def _is_to_pretrain(config: ConfigDict, workdir: Path) -> bool:
    """Whether there are seeds whose model is still to be pretrained."""
    folders = [layout.pretraining_folder(workdir, seed) for seed in config.seeds]
    asked = config.model.pretraining.steps and not config.model.init_from
    return bool(asked) and not all(map(finished, folders))


def _compute(config: ConfigDict, location: Workdir, part: Part) -> None:
    workdir = location.folder
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    model, tokenizer, texts = config.model.init_from, config.tokenizer, config.evaluation.texts
    tokenizers = (tokenizer, texts.reward_model, texts.rouge_tokenizer)
    models = (model, texts.reward_model)
    wanted = dict(fetched(part.encoder or config.similarity.encoder))
    wanted["models"] = (*models, *wanted.get("models", ()))
    wanted["tokenizers"] = (*tokenizers, *wanted.get("tokenizers", ()))
    # A part takes what the study it starts from took, and the selection that both are parts of.
    like = () if part.start is None else (part.start, part.start.parents[1])
    once("hub", partial(hub.fetch, workdir, like=like, **wanted))
    config = with_folders(config, workdir)
    with ExitStack() as stack:
        reading, pool = open_pool(config, workdir, stack)
        _train(config, location, part, reading, pool, mesh)


def _train(
    config: ConfigDict, location: Workdir, part: Part, reading: Reading, pool: Pool, mesh: Mesh
) -> None:
    workdir = location.folder
    # Shapes and sizes are worked out before the hours of embedding and training.
    origin = find_origin(config, reading.tokenizer, workdir, part.start)
    check(
        not config.model.lora.rank or origin.weights is not None,
        f"model.lora.rank={config.model.lora.rank} adapts weights, but model.init_from gives none",
    )
    trainer = make_trainer(config, reading.tokenizer, mesh, origin)
    part.check_rows(len(pool.usable))
    check_steps(config, len(pool.usable))
    evaluators = make_evaluators(config, pool.measured_on, reading, trainer, origin)
    claim_data(config, workdir, pool, origin, part.start)
    if origin.weights:
        trainer.weights_digest = need_json(workdir / layout.DATA)["weights_digest"]
    once("rows of the page", partial(keep_shown, workdir, pool.measured_on.instances))
    orders = Orders({}, pool)
    if part.runs:
        orders = arrange_pool(
            config,
            workdir,
            pool,
            mesh,
            methods=part.methods,
            encoder=part.encoder,
            explained=part.explained,
        )
        made = [one.order for one in orders.arrangements.values()]
        check_anew_encoder(config, made, orders.pool, trainer, reading.tokenizer, workdir)
    if config.model.pretraining.steps and origin.weights is None:
        start = location if part.start is None else Workdir(part.start)
        runs = [(layout.run_folder(workdir, *run), run[1]) for run in part.runs]
        begin = by_first(
            lambda: sorted(
                {seed for run, seed in runs if not finished(run) or missing(config, run)}
            )
        )
        trainer.init_from = pretrain(
            config, start, origin.model, reading.tokenizer, mesh, wanted=begin
        )
    if orders.arrangements:
        _train_in_orders(config, location, part, orders, trainer, evaluators)


def _train_in_orders(
    config: ConfigDict,
    location: Workdir,
    part: Part,
    orders: Orders,
    trainer: Trainer,
    evaluators: Sequence[tuple[Evaluator, int]],
) -> None:
    workdir, mesh, training = location.folder, trainer.mesh, config.training
    arrangements, pool = orders
    steps_of = partial(
        make_steps,
        pool.train_examples,
        mesh=mesh,
        longest=int(pool.train_examples.lengths[pool.usable].max()),
        max_length=config.data.max_length,
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size,
        packing=training.packing,
    )
    all_steps = {
        name: steps_of(epochs(arrangement.order, training.epochs, config.arrangement.seed))
        for name, arrangement in arrangements.items()
    }
    # Arrangements differ in length: one that is too short is refused before any is trained on.
    totals = {name: _total_steps(training.steps, steps, name) for name, steps in all_steps.items()}
    schedule(training.schedule, training.learning_rate, min(totals.values()), training.warmup_steps)
    _check_profiled(training.profile_steps, totals)
    anew = read_anew(training.epochs)
    left = len(pool.usable) - max(anew.steps, default=0) * training.batch_size
    check_anew(anew, totals, left, workdir, location.checkpoints(workdir / "runs"))
    recipe = loop.Recipe(
        trainer,
        ids=pool.train.ids,
        evaluators=evaluators,
        checkpoint_every=training.checkpoint_every,
        checkpoints_kept=ADAPTERS_KEPT if config.model.lora.rank else 2,
        speed=Speed(
            *(trainer.model, pool.train_examples.lengths, mesh, config.model.dtype),
            frozen=config.model.lora.rank > 0,
        ),
        profile_steps=training.profile_steps,
        workers=config.data.workers,
        logging=Logging(config.logging, flatten(config)),
        belongs=claims.of_runs(workdir),
    )
    for _ in ended_here(workdir, part.runs):
        pass  # one that is foreign is refused before others are trained
    for number, (name, seed) in enumerate(part.runs, start=1):
        folder = layout.run_folder(workdir, name, seed)
        checkpoints, place = location.checkpoints(folder / CHECKPOINTS), (number, len(part.runs))
        measure_later(config, folder, checkpoints, recipe, seed)
        if not by_first(partial(_is_finished, folder, totals[name])):
            run = loop.TrainingRun(folder, checkpoints, seed, all_steps[name], totals[name], place)
            again = Again(config, anew, name, pool, steps_of, mesh)
            _train_run(config, run, recipe, again if again.anew.steps else None)


def _is_finished(folder: Path, total: int) -> bool:
    return bool(finished(folder, total))


def _train_run(
    config: ConfigDict, run: loop.TrainingRun, recipe: loop.Recipe, again: Again | None
) -> None:
    started, begun = time.perf_counter(), bool(metrics.read_records(run.folder))
    facts = {
        "Model": model_name(config, recipe.trainer),
        loop.DEVICES: f"{recipe.trainer.mesh.size} × {jax.devices()[0].device_kind}",
    }
    for part in [run] if again is None else parts(run, again):
        run = part  # what was arranged anew has other steps, of which the last part has all
        sequences = _sequences_of_a_step(config, run.steps, run.total)
        loop.train(run, recipe, facts=facts | {"Sequences of a step": sequences})
    records = metrics.read_records(run.folder)
    say(
        f"{run.folder.name}: {run.total} steps, rows {percent(run.steps.fill(run.total))} full, "
        f"{metrics.data_wait(records):.1%} of the steps' seconds waiting for data, test loss "
        f"{records[-1]['loss']:.4f}, {duration(time.perf_counter() - started)}"
        f"{' of this start' if begun else ''}"
    )


def _sequences_of_a_step(config: ConfigDict, steps: Steps, total: int) -> str:
    counts = steps.counts[:total]
    most = config.training.batch_size
    rows = f"{counts.mean():.4g} of {steps.length} tokens for up to {most} instances"
    return f"{rows}, {percent(steps.fill(total))} of them real tokens"


def _check_profiled(wanted: tuple[int, ...], totals: dict[str, int]) -> None:
    for name, total in totals.items():
        if wanted and wanted[1] > total:
            raise UserError(
                f"training.profile_steps={tuple(wanted)}, but {name} trains {total} steps; give "
                f"steps from 1 to {min(totals.values())}"
            )


def _total_steps(wanted: int | None, steps: Steps, name: str) -> int:
    _check_held(wanted, len(steps), name)
    return wanted or len(steps)


def _check_held(wanted: int | None, held: int, name: str) -> None:
    check(
        wanted is None or wanted <= held,
        f"training.steps={wanted}, but {name} holds rows for {held} steps; raise "
        "arrangement.budget, give more training.epochs or leave training.steps out",
    )
