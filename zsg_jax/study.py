"""Runs a study's stages in order going on where it was stopped; the only config reader."""

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax import workdir as workdirs
from zsg_jax.arrangement import Arrangement, files
from zsg_jax.arranging import study as arranging
from zsg_jax.config import flatten, validate
from zsg_jax.data import prompts, sources
from zsg_jax.data.fields import parse_fields
from zsg_jax.data.natural_instructions import Options
from zsg_jax.data.pipeline import RowsAtOnce, Steps, row_length
from zsg_jax.data.pool import Pool, choose_tokenizer, keep_trained, make_pool
from zsg_jax.data.templates import jinja
from zsg_jax.data.tokenizers import Tokenizer
from zsg_jax.durable import file_digest
from zsg_jax.errors import UserError
from zsg_jax.evaluation.loss import LossEvaluation
from zsg_jax.models import huggingface
from zsg_jax.models.choose import choose, is_file
from zsg_jax.models.families import family_name
from zsg_jax.processes import once
from zsg_jax.progress import bar, passes, say
from zsg_jax.training import loop, metrics, sharding
from zsg_jax.training.optimizer import schedule
from zsg_jax.training.trainer import Trainer, TrainerOptions


def run(config: ConfigDict, workdir: Path, *, command: str) -> Path:
    """Runs or resumes the study `config` in `workdir`.

    Args:
        config: as `config.default_config` documents it.
        workdir: made if missing; refused if it belongs to another config or other data.
        command: shown on the report page.

    Returns:
        The report page, `workdir/report/index.html`.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    validate(config)
    workdir = Path(workdir)
    names = [(name, seed) for name in config.arrangement.methods for seed in config.seeds]
    with ExitStack() as stack:

        def take() -> None:
            workdirs.refuse_foreign(workdir)
            stack.enter_context(workdirs.locked(workdir))
            workdirs.claim(workdir, flatten(config))

        once(f"claim {workdir}", take)
        if not all(loop.finished(workdirs.run_folder(workdir, *name)) for name in names):
            _compute(config, workdir)
        # Imported here: a mistake in the config is told before Matplotlib has been imported.
        from zsg_jax.report import build as report

        page = workdir / "report" / "index.html"
        title = config.report.title
        once("report", lambda: report.build(workdir, title=title, command=command, runs=names))
    return page


def _compute(config: ConfigDict, workdir: Path) -> None:
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    with ExitStack() as stack:
        tokenizer, pool = _pool(config, workdir, stack)
        _train(config, workdir, tokenizer, pool, mesh)


def _train(config: ConfigDict, workdir: Path, tokenizer: Tokenizer, pool: Pool, mesh: Mesh) -> None:
    # Shapes and sizes are worked out before the hours of embedding and training.
    trainer = _trainer(config, tokenizer, mesh)
    _check_steps(config, len(pool.usable))
    once("claim data", partial(_claim_data, config, workdir, pool))
    arrangements = _arrangements(config, workdir, pool, mesh)
    length = row_length(int(pool.train_examples.lengths[pool.usable].max()), config.data.max_length)
    evaluate = LossEvaluation(
        pool.test_examples.select(pool.scored),
        pool.test.select(pool.scored).task_names,
        apply=trainer.apply,
        abstract_params=trainer.abstract_state["params"],
        mesh=mesh,
        batch_size=config.evaluation.batch_size,
        max_length=config.evaluation.max_length,
        dropped=len(pool.facts["test_dropped"]),
        packing=config.training.packing,
    )

    def measure(params: Any) -> dict[str, Any]:
        with bar(len(pool.scored), "evaluation") as progress:
            return evaluate(params, progress.update)

    at_once = RowsAtOnce(mesh.size, config.training.micro_batch_size or config.training.batch_size)
    all_steps = {
        name: Steps(
            pool.train_examples,
            arrangement.order,
            batch_size=config.training.batch_size,
            length=length,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            packing=at_once if config.training.packing else None,
        )
        for name, arrangement in arrangements.items()
    }
    # Arrangements differ in length: one that is too short is refused before any is trained on.
    training = config.training
    totals = {name: _total_steps(training.steps, steps, name) for name, steps in all_steps.items()}
    schedule(training.schedule, training.learning_rate, min(totals.values()), training.warmup_steps)
    for name, arrangement in arrangements.items():
        steps, total = all_steps[name], totals[name]
        for seed in config.seeds:
            folder = workdirs.run_folder(workdir, name, seed)
            if loop.finished(folder):
                continue
            started = time.perf_counter()
            one = loop.Run(
                name=folder.name,
                folder=folder,
                steps=steps,
                order=arrangement.order,
                ids=pool.train.ids,
                test_ids=pool.facts["test_ids"],
                initial_state=partial(trainer.initial_state, seed),
                abstract_state=trainer.abstract_state,
                step=trainer.compiled_step(total, length, steps.shapes(total)),
                evaluate=measure,
            )
            loss = loop.train(
                one,
                total=total,
                evaluate_every=config.evaluation.every,
                checkpoint_every=config.training.checkpoint_every,
                mesh=mesh,
                workers=config.data.workers,
                facts={
                    "Model": _model_name(config, trainer),
                    "Devices": f"{mesh.size} × {jax.devices()[0].device_kind}",
                    "Rows of a step": _rows_of_a_step(config, steps, total),
                },
            )
            seconds = time.perf_counter() - started
            full = f"rows {steps.fill(total):.0%} full"
            waited = f"{metrics.data_wait(metrics.read_rows(folder)):.1%} of the steps waiting"
            told = f"{total} steps, {full}, {waited} for data, test loss {loss:.4f}"
            say(f"{folder.name}: {told}, {seconds:.0f} s")


def _pool(config: ConfigDict, workdir: Path, stack: ExitStack) -> tuple[Tokenizer, Pool]:
    folder = workdir / workdirs.TOKENIZER
    # A tokenizer that is trained on the rows cannot count their tokens before they are there.
    ready = None if config.tokenizer == "train" else choose_tokenizer(config.tokenizer, folder)
    train, test, skipped = sources.load(
        config.data.train,
        config.data.test,
        bad_rows=config.data.bad_rows,
        rewrites_options=config.data.rewrites.to_dict(),
        format=config.data.format,
        fields=parse_fields(config.data.fields),
        tasks_options=Options(**config.data.natural_instructions.to_dict(), seed=config.data.seed),
        encode=ready.encode if ready else None,
        split=config.data.split,
        train_per_task=config.data.train_per_task,
        test_per_task=config.data.test_per_task,
        seed=config.data.seed,
        scratch=workdir / workdirs.SCRATCH,
        stack=stack,
    )
    for row in skipped[:5]:
        say(f"skipped {row.path}:{row.line}: {row.reason}")
    if len(skipped) > 5:
        say(f"skipped {len(skipped) - 5} more rows; all are listed in {workdir / workdirs.DATA}")
    if config.tokenizer == "train":
        once("tokenizer", lambda: keep_trained(folder, train, config.tokenizer_size))
    tokenizer = ready or choose_tokenizer(config.tokenizer, folder)
    form = prompts.Form(
        template=jinja.load(config.data.template, config.tokenizer, tokenizer.special_tokens),
        answers=config.data.answers,
        truncation=config.data.truncation,
        max_answer=config.data.max_answer,
    )
    with bar(len(train) + len(test), "tokens") as progress:
        pool = make_pool(
            train,
            test,
            skipped,
            tokenizer,
            train_length=config.data.max_length,
            test_length=config.evaluation.max_length,
            report_fraction=config.data.report_fraction,
            seed=config.arrangement.seed,
            form=form,
            bad_rows=config.data.bad_rows,
            on_progress=progress.update,
            folder=workdir / workdirs.TOKENS,
        )
    shared = pool.facts["shared_tasks"]
    if shared:
        say(
            f"{len(shared)} of {pool.facts['test_tasks']} test tasks stand in the training data "
            f"too, such as {shared[0]!r}: they are not unseen"
        )
    say(
        f"data: {len(pool.usable):,} training rows of {pool.facts['train_tasks']:,} tasks, "
        f"{len(pool.test):,} test rows of {pool.facts['test_tasks']:,} tasks"
    )
    if pool.facts["split"]:
        say(f"test rows: {len(pool.aimed):,} to arrange toward, {len(pool.scored):,} to score on")
    return tokenizer, pool


def _claim_data(config: ConfigDict, workdir: Path, pool: Pool) -> None:
    digest = ""
    if config.model.init_from:
        # Weights that do not fit are refused here, before anything is embedded.
        folder = config.model.init_from
        digest = huggingface.check_folder(folder, huggingface.read_config(folder))
    elif is_file(config.model.size):
        digest = file_digest(Path(config.model.size))
    workdirs.claim_data(workdir, {**pool.facts, "weights_digest": digest})


def _check_steps(config: ConfigDict, rows: int) -> None:
    """Refuses numbers of steps that no arrangement can serve, before any is made."""
    training, budget = config.training, config.arrangement.budget
    most = -(-rows // training.batch_size)
    least = -(-min(budget or rows, rows) // training.batch_size)
    if budget is not None and budget > rows:
        say(f"arrangement.budget={budget:,} is more than the {rows:,} usable rows: all are taken")
    if most == 1:
        say(
            f"{rows:,} rows make one step of training.batch_size={training.batch_size}, in which "
            "their order cannot matter; a smaller batch makes more steps"
        )
    if training.steps is not None and training.steps > most:
        raise UserError(
            f"training.steps={training.steps}, but {rows} training rows make {most} steps; give "
            "more rows or leave training.steps out"
        )
    schedule(
        training.schedule,
        training.learning_rate,
        training.steps or least,
        training.warmup_steps,
    )


def _trainer(config: ConfigDict, tokenizer: Tokenizer, mesh: Mesh) -> Trainer:
    longest = max(config.data.max_length, config.evaluation.max_length)
    shape = config.model.init_from or config.model.size
    model = choose(
        config.model.family,
        config.model.size,
        config.model.init_from,
        vocab_size=tokenizer.vocab_size,
        max_positions=longest,
    )
    if config.model.init_from or is_file(shape):
        if model.vocab_size < tokenizer.vocab_size:
            raise UserError(
                f"tokenizer={config.tokenizer!r} has {tokenizer.vocab_size} entries, the model in "
                f"{shape} only {model.vocab_size}; use the model's own folder"
            )
        if model.max_positions < longest:
            raise UserError(
                f"data.max_length={config.data.max_length} and evaluation.max_length="
                f"{config.evaluation.max_length} must not pass the {model.max_positions} positions "
                f"of the model in {shape}"
            )
    training = config.training
    options = TrainerOptions(
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size or training.batch_size,
        learning_rate=training.learning_rate,
        schedule=training.schedule,
        warmup_steps=training.warmup_steps,
        clip_norm=training.clip_norm,
        weight_decay=training.weight_decay,
        packing=training.packing,
    )
    trainer = Trainer(
        model,
        options,
        mesh,
        dtype=config.model.dtype,
        remat=config.model.remat,
        init_from=config.model.init_from or None,
    )
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    say(
        f"model: {family_name(model)}, {trainer.parameters:,} parameters; mesh {axes} on "
        f"{jax.default_backend()}"
    )
    return trainer


def _model_name(config: ConfigDict, trainer: Trainer) -> str:
    origin = config.model.init_from or f"{config.model.size}, from random weights"
    return f"{family_name(trainer.model)}, {trainer.parameters:,} parameters ({origin})"


def _rows_of_a_step(config: ConfigDict, steps: Steps, total: int) -> str:
    counts = steps.counts[:total]
    rows = (
        f"{counts.mean():.4g} of {steps.length} tokens for {config.training.batch_size} instances"
    )
    return f"{rows}, {steps.fill(total):.1%} of them real tokens"


def _arrangements(
    config: ConfigDict, workdir: Path, pool: Pool, mesh: Mesh
) -> dict[str, Arrangement]:
    """Makes the arrangements that are not there yet, and loads all."""
    folders = {
        name: workdirs.arrangement_folder(workdir, name) for name in config.arrangement.methods
    }
    digests = _digests(pool)
    missing = {name: folder for name, folder in folders.items() if not arranging.is_made(folder)}
    looked = (workdir / workdirs.LEAKAGE).exists()
    if missing or not looked:
        sides = arranging.embed_sides(
            pool.train.select(pool.usable),
            pool.test,
            config.similarity.encoder,
            workdir / "embeddings",
            dtype=config.similarity.dtype,
        )
        _make(config, workdir, pool, sides, missing, leaks=not looked, mesh=mesh)
    arrangements: dict[str, Arrangement] = {}
    encoders: dict[str, str | None] = {}
    for name, folder in folders.items():
        arrangements[name], provenance = files.load(folder)
        if any(provenance.get(key) != digest for key, digest in digests.items()):
            raise UserError(
                f"{folder}: was made from other instances; delete the folder to make it again"
            )
        encoders[name] = provenance.get("encoder_digest")
    if len(set(encoders.values())) > 1:
        parts = "; ".join(f"{name}: {digest}" for name, digest in encoders.items())
        raise UserError(
            f"{workdir / 'arrangements'}: not all were made with the same encoder ({parts}): "
            f"{config.similarity.encoder} has changed since; give another --workdir, or put it "
            "back and delete what the other one made"
        )
    return arrangements


def _digests(pool: Pool) -> dict[str, Any]:
    return {key: pool.facts[key] for key in ("train_digest", "test_digest")}


def _make(
    config: ConfigDict,
    workdir: Path,
    pool: Pool,
    sides: arranging.Sides,
    missing: dict[str, Path],
    *,
    leaks: bool,
    mesh: Mesh,
) -> None:
    """Looks for leaks if asked to, and makes the arrangements that are `missing`."""
    block_rows = config.similarity.block_rows
    aimed = sides.toward(pool.aimed)
    # Of a part of the test rows the statistics tell nothing about leaks of the others.
    shared = leaks and aimed is sides
    with bar(None, "similarity") as progress:
        inputs = arranging.make_inputs(
            aimed,
            missing,
            config.similarity.trajectory if missing else (),
            leaks=shared,
            metric=config.similarity.distance,
            w_min=config.arrangement.w_min,
            w_avg=config.arrangement.w_avg,
            budget=config.arrangement.budget,
            block_rows=block_rows,
            mesh=mesh,
            on_progress=passes(progress),
        )
        if leaks:
            arranging.look_for_leaks(
                workdir,
                sides,
                (pool.usable, pool.answered),
                largest=inputs.cosines.maximum if shared else None,
                block_rows=block_rows,
                mesh=mesh,
            )
        if missing:
            arranging.make_arrangements(
                missing,
                aimed,
                inputs,
                pool.usable,
                seed=config.arrangement.seed,
                batch_size=config.training.batch_size,
                steps=config.training.steps,
                every=config.evaluation.every,
                block_rows=block_rows,
                measures=config.similarity.trajectory,
                mesh=mesh,
                provenance=_digests(pool),
                progress=progress,
            )


def _total_steps(wanted: int | None, steps: Steps, name: str) -> int:
    if wanted is not None and wanted > len(steps):
        raise UserError(
            f"training.steps={wanted}, but {name} holds rows for {len(steps)} steps; "
            "raise arrangement.budget or leave training.steps out"
        )
    return wanted or len(steps)
