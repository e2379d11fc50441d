"""Runs a study's stages in order going on where it was stopped; the only config reader."""

import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax import workdir as workdirs
from zsg_jax.arrangement import Arrangement, files
from zsg_jax.arrangement.methods import Turns, arrange
from zsg_jax.config import flatten, validate
from zsg_jax.data import prompts, sources, tokenizers
from zsg_jax.data.instance import Instance, instances_digest
from zsg_jax.data.pipeline import Steps, row_length
from zsg_jax.errors import UserError
from zsg_jax.evaluation.loss import LossEvaluation
from zsg_jax.models import huggingface, llama
from zsg_jax.progress import bar, say
from zsg_jax.report import build as report
from zsg_jax.similarity.hashing import HashingEncoder
from zsg_jax.similarity.sentence import SentenceEncoder
from zsg_jax.similarity.store import embed
from zsg_jax.similarity.trajectory import trajectory
from zsg_jax.training import loop, sharding
from zsg_jax.training.trainer import Trainer, TrainerOptions


class Pool(NamedTuple):
    """Instances with their tokens.

    Attributes:
        train, test: instances; test rows without an answer token are already gone.
        train_examples, test_examples: their tokens, row for row.
        usable: (n,) int64 training rows that have an answer token left.
        test_dropped: test rows that had none.
    """

    train: list[Instance]
    test: list[Instance]
    train_examples: prompts.Examples
    test_examples: prompts.Examples
    usable: np.ndarray
    test_dropped: int


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
    workdirs.claim(workdir, flatten(config), write=jax.process_index() == 0)
    names = [(name, seed) for name in config.arrangement.methods for seed in config.seeds]
    if not all(loop.is_finished(run_folder(workdir, *name)) for name in names):
        _compute(config, workdir)
    return report.build(workdir, title=config.report.title, command=command, runs=names)


def run_folder(workdir: Path, name: str, seed: int) -> Path:
    """Where the run of one arrangement and seed is kept."""
    return workdir / "runs" / f"{name}-seed{seed}"


def _compute(config: ConfigDict, workdir: Path) -> None:
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
    tokenizer, pool = _pool(config, workdir)
    # Shapes and sizes are worked out before the hours of embedding and training.
    trainer = _trainer(config, tokenizer, mesh)
    arrangements = _arrangements(config, workdir, pool, mesh)
    length = row_length(int(pool.train_examples.lengths[pool.usable].max()), config.data.max_length)
    evaluate = LossEvaluation(
        pool.test_examples,
        [instance.task for instance in pool.test],
        apply=trainer.apply,
        abstract_params=trainer.abstract_state["params"],
        mesh=mesh,
        batch_size=config.evaluation.batch_size,
        max_length=config.evaluation.max_length,
        dropped=pool.test_dropped,
    )
    ids = [instance.id for instance in pool.train]
    for name, arrangement in arrangements.items():
        steps = Steps(
            pool.train_examples,
            arrangement.order,
            batch_size=config.training.batch_size,
            length=length,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        total = _total_steps(config.training.steps, steps, name)
        for seed in config.seeds:
            folder = run_folder(workdir, name, seed)
            if loop.is_finished(folder):
                continue
            started = time.perf_counter()
            one = loop.Run(
                name=folder.name,
                folder=folder,
                steps=steps,
                order=arrangement.order,
                ids=ids,
                initial_state=partial(trainer.initial_state, seed),
                abstract_state=trainer.abstract_state,
                step=trainer.compiled_step(total, length),
                evaluate=evaluate,
            )
            loss = loop.train(
                one,
                total=total,
                evaluate_every=config.evaluation.every,
                checkpoint_every=config.training.checkpoint_every,
                mesh=mesh,
                facts={
                    "Model": _model_name(config, trainer),
                    "Devices": f"{mesh.size} × {jax.devices()[0].device_kind}",
                },
            )
            seconds = time.perf_counter() - started
            say(f"{folder.name}: {total} steps, test loss {loss:.4f}, {seconds:.0f} s")


def _pool(config: ConfigDict, workdir: Path) -> tuple[tokenizers.Tokenizer, Pool]:
    train, test, skipped = sources.load(
        config.data.train,
        config.data.test,
        bad_rows=config.data.bad_rows,
        rewrites_options=config.data.rewrites.to_dict(),
    )
    for row in skipped[:5]:
        say(f"skipped {row.path}:{row.line}: {row.reason}")
    if len(skipped) > 5:
        say(f"skipped {len(skipped) - 5} more rows; all are listed in {workdir / workdirs.DATA}")
    tokenizer = _tokenizer(config, workdir, train)
    with bar(len(train) + len(test), "tokens") as progress:
        train_examples = prompts.encode(train, tokenizer, config.data.max_length, progress.update)
        test_examples = prompts.encode(
            test, tokenizer, config.evaluation.max_length, progress.update
        )
    usable = np.flatnonzero(train_examples.answer_tokens)
    scored = np.flatnonzero(test_examples.answer_tokens)
    for side, rows, kept, key in (
        ("training", train, usable, "data.max_length"),
        ("test", test, scored, "evaluation.max_length"),
    ):
        if not len(kept):
            raise UserError(f"no {side} row has an answer token left; raise --config.{key}")
        if len(kept) < len(rows):
            say(
                f"{len(rows) - len(kept)} {side} rows have no answer token left after the cut to "
                f"{key}; they are left out"
            )
    facts = {
        "train_rows": len(train),
        "train_tasks": len({instance.task for instance in train}),
        "train_cut": int((train_examples.cut > 0).sum()),
        "train_dropped": [train[row].id for row in _others(usable, len(train))],
        "test_rows": len(test),
        "test_tasks": len({instance.task for instance in test}),
        "test_cut": int((test_examples.cut > 0).sum()),
        "test_dropped": [test[row].id for row in _others(scored, len(test))],
        "test_ids": [test[row].id for row in scored],
        "skipped": [row._asdict() for row in skipped],
        "train_digest": instances_digest(train),
        "test_digest": instances_digest(test),
        "tokenizer_digest": tokenizer.fingerprint,
    }
    workdirs.claim_data(workdir, facts, write=jax.process_index() == 0)
    say(
        f"data: {len(usable)} training rows of {facts['train_tasks']} tasks, "
        f"{len(scored)} test rows of {facts['test_tasks']} tasks"
    )
    return tokenizer, Pool(
        train,
        [test[row] for row in scored],
        train_examples,
        test_examples.select(scored),
        usable,
        len(test) - len(scored),
    )


def _others(rows: np.ndarray, count: int) -> list[int]:
    return np.setdiff1d(np.arange(count), rows).tolist()


def _tokenizer(config: ConfigDict, workdir: Path, train: list[Instance]) -> tokenizers.Tokenizer:
    if config.tokenizer == "bytes":
        return tokenizers.ByteTokenizer()
    if config.tokenizer != "train":
        return tokenizers.from_folder(config.tokenizer)
    folder = workdir / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        say(f"tokenizer: training a byte-level BPE on {len(train)} rows")
        trained = tokenizers.train_bpe((i.text for i in train), config.tokenizer_size)
        trained.save(folder)
    return tokenizers.from_folder(folder)


def _trainer(config: ConfigDict, tokenizer: tokenizers.Tokenizer, mesh: Mesh) -> Trainer:
    longest = max(config.data.max_length, config.evaluation.max_length)
    if config.model.init_from:
        model = huggingface.read_llama_config(config.model.init_from)
        if model.vocab_size < tokenizer.vocab_size:
            raise UserError(
                f"tokenizer={config.tokenizer!r} has {tokenizer.vocab_size} entries, the model in "
                f"{config.model.init_from} only {model.vocab_size}; use the model's own folder"
            )
        if model.max_positions < longest:
            raise UserError(
                f"data.max_length={config.data.max_length} and evaluation.max_length="
                f"{config.evaluation.max_length} must not pass the {model.max_positions} positions "
                f"of the model in {config.model.init_from}"
            )
    else:
        model = llama.sized(config.model.size, tokenizer.vocab_size, longest)
    training = config.training
    options = TrainerOptions(
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size or training.batch_size,
        learning_rate=training.learning_rate,
        schedule=training.schedule,
        warmup_steps=training.warmup_steps,
        clip_norm=training.clip_norm,
        weight_decay=training.weight_decay,
    )
    trainer = Trainer(
        model, options, mesh, dtype=config.model.dtype, init_from=config.model.init_from or None
    )
    shape = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    say(f"model: llama, {trainer.parameters:,} parameters; mesh {shape} on {jax.default_backend()}")
    return trainer


def _model_name(config: ConfigDict, trainer: Trainer) -> str:
    origin = config.model.init_from or f"{config.model.size}, from random weights"
    return f"{config.model.family}, {trainer.parameters:,} parameters ({origin})"


def _arrangements(
    config: ConfigDict, workdir: Path, pool: Pool, mesh: Mesh
) -> dict[str, Arrangement]:
    """Loads the arrangements that are there and makes the others."""
    folders = {name: workdir / "arrangements" / name for name in config.arrangement.methods}
    missing = [name for name in folders if not (folders[name] / report.TRAJECTORY).exists()]
    if missing:
        _arrange(config, workdir, pool, mesh, {name: folders[name] for name in missing})
    return {name: files.load(folder)[0] for name, folder in folders.items()}


def _arrange(
    config: ConfigDict, workdir: Path, pool: Pool, mesh: Mesh, folders: dict[str, Path]
) -> None:
    similarity = config.similarity
    if similarity.encoder == "hashing":
        encoder: HashingEncoder | SentenceEncoder = HashingEncoder()
    else:
        encoder = SentenceEncoder(similarity.encoder)
    embeddings = workdir / "embeddings"
    texts = [pool.train[row].text for row in pool.usable]
    train = embed(texts, encoder, embeddings / "train", description="embedding train")
    texts = [instance.text for instance in pool.test]
    test = embed(texts, encoder, embeddings / "test", description="embedding test")
    started = time.perf_counter()
    turns = Turns(
        train,
        test,
        budget=config.arrangement.budget,
        mesh=mesh,
        block_rows=similarity.block_rows,
    )
    for name, folder in folders.items():
        part = arrange(name, turns, config.arrangement.seed)
        points = trajectory(
            train,
            test,
            part.order,
            batch_size=config.training.batch_size,
            every=config.evaluation.every,
            mesh=mesh,
            block_rows=similarity.block_rows,
        )
        # Rows without an answer token were no candidates; the saved order counts all rows.
        whole = Arrangement(pool.usable[part.order], part.turn)
        seconds = time.perf_counter() - started
        say(f"{name}: {len(whole.order)} rows in {len(whole.turn_sizes)} turns, {seconds:.1f} s")
        if jax.process_index() == 0:
            provenance = {
                "name": name,
                "budget": config.arrangement.budget,
                "seed": config.arrangement.seed,
                "encoder": encoder.name,
                "encoder_digest": encoder.fingerprint,
                "train_digest": instances_digest(pool.train),
                "test_digest": instances_digest(pool.test),
            }
            files.save(whole, folder, provenance)
            ids = "".join(f"{pool.train[row].id}\n" for row in whole.order)
            (folder / "ids.txt").write_text(ids)
            report.save_trajectory(folder, points)


def _total_steps(wanted: int | None, steps: Steps, name: str) -> int:
    if wanted is not None and wanted > len(steps):
        raise UserError(
            f"training.steps={wanted}, but {name} holds rows for {len(steps)} steps; "
            "raise arrangement.budget or leave training.steps out"
        )
    return wanted or len(steps)
