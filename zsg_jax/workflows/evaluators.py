"""What a study measures: the evaluators that its config names, each with its own schedule."""

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.data.pool import TestSet
from zsg_jax.data.tokenize import encode
from zsg_jax.data.tokenize.examples import TokenizedExamples
from zsg_jax.data.tokenize.tokenizer import from_folder
from zsg_jax.evaluation import decoding
from zsg_jax.evaluation.choices import ChoicesEvaluator, limits
from zsg_jax.evaluation.evaluator import Evaluator
from zsg_jax.evaluation.generation import Generator
from zsg_jax.evaluation.loss import LossEvaluator
from zsg_jax.evaluation.metrics import need_texts
from zsg_jax.evaluation.rewards import RewardModel
from zsg_jax.evaluation.scores import METRICS as SCORES
from zsg_jax.evaluation.stops import Stops, forms
from zsg_jax.evaluation.texts import TextEvaluator
from zsg_jax.models.placement import Compute
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import setting
from zsg_jax.training.trainer import Trainer
from zsg_jax.workdir import hub
from zsg_jax.workflows.study_data import Reading
from zsg_jax.workflows.study_model import Origin


def make_evaluators(
    config: ConfigDict, tests: TestSet, reading: Reading, trainer: Trainer, origin: Origin
) -> list[tuple[Evaluator, int]]:
    """What a study measures, each with the steps between two of its measurements.

    Raises:
        UserError: test rows may be longer than the model's positions, or what measures refuses.
    """
    evaluation, wanted = config.evaluation, config.evaluation.metrics
    check(
        evaluation.max_length <= trainer.model.max_positions,
        f"{setting('evaluation.max_length', evaluation.max_length)} passes the "
        f"{trainer.model.max_positions} positions of the model; give no more",
    )
    found: list[tuple[Evaluator, int]] = []
    if "loss" in wanted:
        loss = make_loss(
            config,
            trainer,
            tests.examples,
            tests.instances.ids,
            tests.instances.task_names,
            max_length=evaluation.max_length,
            dropped=tests.dropped,
        )
        found.append((loss, evaluation.every))
    if need_texts(wanted):
        found.append((_texts(config, tests, reading, trainer, origin), scores_every(config)))
    if "choices" in wanted:
        found.append((_choices(config, tests, reading, trainer), scores_every(config)))
    return found


def scores_every(config: ConfigDict) -> int:
    """Steps between two measurements of all but the loss."""
    return config.evaluation.every * config.evaluation.scores_every


def make_loss(
    config: ConfigDict,
    trainer: Trainer,
    examples: TokenizedExamples,
    ids: Sequence[str],
    tasks: Sequence[str],
    *,
    max_length: int,
    dropped: int = 0,
) -> LossEvaluator:
    """What measures the loss of a trainer's parameters; examples and the rest as it takes them."""
    return LossEvaluator(
        examples,
        ids,
        tasks,
        hidden=trainer.hidden,
        vocab_size=trainer.model.vocab_size,
        abstract_params=trainer.model_params(trainer.abstract_state),
        mesh=trainer.mesh,
        batch_size=config.evaluation.batch_size,
        max_length=max_length,
        dropped=dropped,
        packing=config.training.packing,
    )


def _choices(
    config: ConfigDict, tests: TestSet, reading: Reading, trainer: Trainer
) -> ChoicesEvaluator:
    evaluator = ChoicesEvaluator(
        list(tests.instances),
        reading.tokenizer,
        graphdef=trainer.graphdef,
        vocab_size=trainer.model.vocab_size,
        abstract_params=trainer.model_params(trainer.abstract_state),
        mesh=trainer.mesh,
        batch_size=config.evaluation.batch_size,
        max_length=config.evaluation.max_length,
        form=reading.form,
    )
    if evaluator.dropped:
        say(
            f"choices: {len(evaluator.dropped):,} test rows have one that "
            f"{limits(config.evaluation.max_length, reading.form)} cuts, such as "
            f"{evaluator.dropped[0]}, and are left out of the accuracy"
        )
    return evaluator


def with_folders(config: ConfigDict, workdir: Path) -> ConfigDict:
    """A config whose evaluation.texts has the local folders of its names of the hub."""
    config = config.copy_and_resolve_references()
    for name in ("reward_model", "rouge_tokenizer"):
        config.evaluation.texts[name] = hub.folder(config.evaluation.texts[name], workdir)
    return config


def reward_model(texts: ConfigDict, mesh: Mesh) -> RewardModel:
    """The reward model that a config's evaluation.texts names, on a mesh."""
    return RewardModel(
        texts.reward_model,
        mesh,
        template=texts.reward_template,
        compute=Compute(jnp.dtype(texts.reward_dtype)),
    )


def _texts(
    config: ConfigDict, tests: TestSet, reading: Reading, trainer: Trainer, origin: Origin
) -> TextEvaluator:
    evaluation, texts, tokenizer = config.evaluation, config.evaluation.texts, reading.tokenizer
    sampling = decoding.parse(texts.decoding)
    if line := decoding.idle(texts.decoding):
        say(line)

    closing = encode.closing_tokens(tokenizer, reading.form)
    ends = {tokenizer.eos_id, *origin.ends}
    stops = [form for words in texts.stops for form in forms(words, tokenizer)]
    generator = Generator(
        trainer.graphdef,
        trainer.model,
        trainer.mesh,
        sampling,
        eos=sorted(ends | set(closing if len(closing) == 1 else ())),
        stops=[*stops, *([closing] if len(closing) > 1 else [])],
        batch_size=evaluation.batch_size,
    )
    limit = min(evaluation.max_length, generator.room)
    check(
        limit > 0,
        f"{setting('evaluation.texts.decoding', texts.decoding)}: {trainer.model.max_positions} "
        "positions of the model leave no room for a prompt; generate fewer tokens",
    )
    instances = list(tests.instances)
    prompts = encode.encode_prompts(instances, tokenizer, reading.form, limit)
    if count := int((prompts.cut > 0).sum()):
        why = ", to leave room for the text" if limit < evaluation.max_length else ""
        say(
            f"generation: {count:,} of {len(prompts.ids):,} prompts were cut to {limit} tokens, by "
            f"{int(prompts.cut.sum()):,} in all{why}"
        )
    judge, words = None, texts.rouge_tokenizer
    if "reward" in evaluation.metrics:
        judge = reward_model(texts, trainer.mesh)
    return TextEvaluator(
        generator,
        instances,
        prompts.ids,
        decode=tokenizer.decode,
        metrics=[name for name in evaluation.metrics if name in SCORES],
        rouge_tokenizer=from_folder(words) if words else None,
        reward=None if judge is None else judge.of(instances),
        rewarded=None if judge is None else judge.tell,
        seed=sampling.seed,
        samples=sampling.samples,
        stops=Stops(tuple(texts.stops), sampling.min_new_tokens),
    )
