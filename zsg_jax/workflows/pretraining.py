"""Pretrains a study's model on plain text, once for each seed, where it starts from none."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.data.batches.steps import SequencesAtOnce, Steps, sequence_length
from zsg_jax.data.plain_text import encode_plain, general_strings
from zsg_jax.data.tokenize.examples import Examples
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.evaluation.loss import LossEvaluator
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.placement import Params
from zsg_jax.runtime.progress import say
from zsg_jax.training import loop, metrics, sharding
from zsg_jax.training.checkpoint import Checkpoints
from zsg_jax.training.flops import Speed
from zsg_jax.training.trainer import Trainer, TrainerOptions
from zsg_jax.workdir import claims
from zsg_jax.workdir.location import Workdir
from zsg_jax.workdir.trained import CHECKPOINTS
from zsg_jax.workflows.study_model import make_compute

HELD_OUT = 256  # texts that are not trained on, to measure the loss
MEASURED = 5  # times, besides step 0


def pretrain(
    config: ConfigDict, location: Workdir, model: ModelConfig, tokenizer: Tokenizer, mesh: Mesh
) -> Callable[[int], Params]:
    """Pretrains random weights of every seed, going on where it was stopped.

    It is a run like others, of plain text in place of an arrangement: in pretraining/seedK lie its
    metrics and its checkpoints.

    Returns:
        (seed) -> the parameters at the end, on their shards.
    """
    settings = config.model.pretraining
    rows = settings.steps * settings.batch_size
    length = config.data.max_length
    texts = general_strings(rows + HELD_OUT, settings.seed)
    examples = encode_plain(texts, tokenizer, length)
    options = TrainerOptions(
        batch_size=settings.batch_size,
        micro_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        schedule="cosine",
        warmup_steps=settings.steps // 20,
        clip_norm=1.0,
        weight_decay=0.0,
        packing=config.training.packing,
    )
    trainer = Trainer(
        model,
        options,
        mesh,
        compute=make_compute(config, model, mesh, lambda line: None),
        param_dtype=config.model.param_dtype,
    )
    evaluator = _held_out(config, examples, rows, trainer)
    recipe = loop.Recipe(
        trainer,
        ids=[f"strings/{number}" for number in range(rows)],
        evaluators=[(evaluator, max(1, settings.steps // MEASURED))],
        checkpoint_every=config.training.checkpoint_every,
        speed=Speed(trainer.model, examples.lengths, mesh, config.model.dtype),
    )
    runs = {seed: _run(config, location, examples, rows, mesh, seed) for seed in config.seeds}
    for run in runs.values():
        if not loop.finished(run.folder):
            loop.train(run, recipe, facts={})
            say(f"pretraining, seed {run.seed}: {told(run.folder)}")

    def params(seed: int) -> Params:
        restored = Checkpoints(runs[seed].checkpoints).restore(trainer.abstract_state)
        assert restored is not None
        return restored[1]["params"]

    return params


def told(folder: Path) -> str:
    """What a run of pretraining has come to, in a few words."""
    records = metrics.read_records(folder)
    losses = [one["loss"] for one in records if one["kind"] == "test"]
    return (
        f"{records[-1]['step']:,} steps on general strings, from {losses[0]:.2f} to "
        f"{losses[-1]:.2f} nats a token of {HELD_OUT} others"
    )


def _held_out(config: ConfigDict, examples: Examples, rows: int, trainer: Trainer) -> LossEvaluator:
    others = np.arange(rows, rows + HELD_OUT)
    return LossEvaluator(
        examples.select(others),
        [f"strings/{number}" for number in others],
        ["strings"] * len(others),
        hidden=trainer.hidden,
        vocab_size=trainer.model.vocab_size,
        abstract_params=trainer.model_params(trainer.abstract_state),
        mesh=trainer.mesh,
        batch_size=config.evaluation.batch_size,
        max_length=config.data.max_length,
        packing=config.training.packing,
    )


def _run(
    config: ConfigDict,
    location: Workdir,
    examples: Examples,
    rows: int,
    mesh: Mesh,
    seed: int,
) -> loop.TrainingRun:
    batch_size = config.model.pretraining.batch_size
    steps = Steps(
        examples,
        np.random.default_rng(seed).permutation(rows),
        batch_size=batch_size,
        length=sequence_length(int(examples.lengths.max()), config.data.max_length),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        packing=SequencesAtOnce(sharding.row_devices(mesh), batch_size)
        if config.training.packing
        else None,
    )
    folder = claims.pretraining_folder(location.folder, seed)
    return loop.TrainingRun(
        folder, location.checkpoints(folder / CHECKPOINTS), seed, steps, len(steps)
    )
