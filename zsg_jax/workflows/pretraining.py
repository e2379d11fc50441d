"""Pretrains a study's model on plain text, once for each seed, where it starts from none."""

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.data.batches.steps import Steps
from zsg_jax.data.plain_text import encode_plain, general_strings
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.processes import by_first
from zsg_jax.runtime.progress import say
from zsg_jax.training import loop, metrics
from zsg_jax.training.belongs import Belongs
from zsg_jax.training.checkpoint import Checkpoints
from zsg_jax.training.finished import ended
from zsg_jax.training.flops import Speed
from zsg_jax.training.trainer import Trainer, TrainerOptions
from zsg_jax.workdir import claims, layout
from zsg_jax.workdir.location import Workdir
from zsg_jax.workdir.trained import CHECKPOINTS
from zsg_jax.workflows.evaluators import make_loss
from zsg_jax.workflows.study_data import make_steps
from zsg_jax.workflows.study_model import make_compute

HELD_OUT = 256  # texts that are not trained on, to measure the loss
MEASURED = 5  # times, besides step 0


def pretrain(
    config: ConfigDict,
    location: Workdir,
    model: ModelConfig,
    tokenizer: Tokenizer,
    mesh: Mesh,
    wanted: Collection[int],
) -> Callable[[int], Params]:
    """Pretrains random weights of every seed, going on where it was stopped.

    It is a run like others, of plain text in place of an arrangement: in pretraining/ lie the
    metrics and the checkpoints of each seed. Where the last of these is damaged or gone, it is
    taken again from an earlier one to the same end.

    Args:
        config, location, model, tokenizer, mesh: of the study.
        wanted: seeds whose parameters will be asked for.

    Returns:
        (seed) -> the parameters at the end, on their shards.

    Raises:
        UserError: as `loop.train`; the parameters at the end of a seed are not there any more.
    """
    settings = config.model.pretraining
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
    folders = {seed: layout.pretraining_folder(location.folder, seed) for seed in config.seeds}
    kept = {seed: location.checkpoints(folder / CHECKPOINTS) for seed, folder in folders.items()}
    belongs = claims.of_pretraining(location.folder)

    def is_left(seed: int) -> bool:
        if not ended(folders[seed], belongs):
            return True
        return seed in wanted and not Checkpoints(kept[seed]).is_whole(settings.steps)

    left = by_first(lambda: [seed for seed in folders if is_left(seed)])
    if left:
        recipe, steps = _recipe(config, tokenizer, trainer, belongs)
        for number, seed in enumerate(left, start=1):
            place = number, len(left)
            run = loop.TrainingRun(
                folders[seed], kept[seed], seed, steps(seed), settings.steps, place
            )
            loop.train(run, recipe, facts={})
            say(f"pretraining, seed {seed}: {told(folders[seed])}")

    def params(seed: int) -> Params:
        restored = Checkpoints(kept[seed]).restore(trainer.abstract_state)
        if restored is None or restored[0] != settings.steps:
            raise UserError(
                f"{kept[seed]}: of step {settings.steps}, where the pretraining ended, no whole "
                "checkpoint is there any more; the same command takes its last steps again"
            )
        belongs.check(folders[seed], restored[2])
        return restored[1]["params"]

    return params


def _recipe(
    config: ConfigDict, tokenizer: Tokenizer, trainer: Trainer, belongs: Belongs
) -> tuple[loop.Recipe, Callable[[int], Steps]]:
    """How the strings are trained on, and their batches, shuffled by a seed."""
    settings, longest = config.model.pretraining, config.data.max_length
    rows = settings.steps * settings.batch_size
    texts = general_strings(rows + HELD_OUT, settings.seed)
    examples = encode_plain(texts, tokenizer, longest)
    ids = [f"strings/{number}" for number in range(len(texts))]
    others = np.arange(rows, len(texts))
    evaluator = make_loss(
        config,
        trainer,
        examples.select(others),
        ids[rows:],
        ["strings"] * len(others),
        max_length=longest,
    )
    recipe = loop.Recipe(
        trainer,
        ids=ids,
        evaluators=[(evaluator, max(1, settings.steps // MEASURED))],
        checkpoint_every=config.training.checkpoint_every,
        speed=Speed(trainer.model, examples.lengths, trainer.mesh, config.model.dtype),
        belongs=belongs,
    )

    def steps(seed: int) -> Steps:
        return make_steps(
            examples,
            np.random.default_rng(seed).permutation(rows),
            trainer.mesh,
            longest=int(examples.lengths.max()),
            max_length=longest,
            batch_size=settings.batch_size,
            micro_batch_size=None,
            packing=config.training.packing,
        )

    return recipe, steps


def told(folder: Path) -> str:
    """What a run of pretraining has come to, in a few words."""
    records = metrics.read_records(folder)
    losses = [one["loss"] for one in records if one["kind"] == "test"]
    return (
        f"{records[-1]['step']:,} steps on general strings, from {losses[0]:.2f} to "
        f"{losses[-1]:.2f} nats a token of {HELD_OUT} others"
    )
