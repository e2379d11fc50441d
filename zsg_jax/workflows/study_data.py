"""A study's examples: read, tokenized, and checked against what the workdir was made from."""

import dataclasses
import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.arrangement.scores import check_scores
from zsg_jax.config import flatten
from zsg_jax.data import sources
from zsg_jax.data.batches.steps import SequencesAtOnce, Steps, sequence_length
from zsg_jax.data.by_answer import by_answer
from zsg_jax.data.dataset import Dataset
from zsg_jax.data.formats.fields import OldNames, parse_fields
from zsg_jax.data.formats.natural_instructions import Options
from zsg_jax.data.instance import texts_digest
from zsg_jax.data.pool import Pool, choose_tokenizer, keep_trained, make_pool
from zsg_jax.data.reading import ReadOptions
from zsg_jax.data.schemas.read import each_once, tell_skipped
from zsg_jax.data.splits import Selection
from zsg_jax.data.tokenize import encode as prompts
from zsg_jax.data.tokenize import jinja
from zsg_jax.data.tokenize.examples import TokenizedExamples
from zsg_jax.data.tokenize.tokenizer import Tokenizer, from_folder
from zsg_jax.evaluation.metrics import need_texts
from zsg_jax.evaluation.records import json_line
from zsg_jax.evaluation.rewards import REWARD_TEMPLATE
from zsg_jax.models import huggingface
from zsg_jax.models.families import is_file
from zsg_jax.report.rows import but_alike, copies
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import file_digest, write_bytes, write_json
from zsg_jax.runtime.processes import once, same_everywhere, same_files
from zsg_jax.runtime.progress import bar, count, say
from zsg_jax.training import initial_weights, sharding
from zsg_jax.training.optimizer import schedule
from zsg_jax.workdir import claims, decoders, hub, layout
from zsg_jax.workflows.study_model import Origin

MOST_SHOWN = 10_000  # test rows; of more, the page shows none
LETTERS_SHOWN = 2000  # of a prompt, and of an answer


class Reading(NamedTuple):
    """How instances become tokens, and tokens text."""

    tokenizer: Tokenizer
    form: prompts.Form


def open_pool(config: ConfigDict, workdir: Path, stack: ExitStack) -> tuple[Reading, Pool]:
    """Opens both sides, tells what was found in them, and tokenizes them.

    `stack` closes the sources, which are read as long as the pool is used.
    """
    folder, name = workdir / layout.TOKENIZER, hub.folder(config.tokenizer, workdir)
    # A tokenizer that is trained on the examples cannot count their tokens before it is there.
    ready = None if name == "train" else choose_tokenizer(name, folder)
    train, test = _load(config, workdir, ready, stack)
    if name == "train":
        once("tokenizer", lambda: keep_trained(folder, train, config.tokenizer_size))
    tokenizer = ready or choose_tokenizer(name, folder)
    form = make_form(config, tokenizer, name)
    with bar(len(train) + len(test), "tokens") as progress:
        pool = make_pool(
            train,
            test,
            tokenizer,
            train_length=config.data.max_length,
            test_length=config.evaluation.max_length,
            report_fraction=config.data.report_fraction,
            seed=config.arrangement.seed,
            form=form,
            bad_rows=config.data.bad_rows,
            on_progress=progress.update,
            folder=workdir / layout.TOKENS,
            cache=config.similarity.cache,
        )
    shared = pool.facts["shared_tasks"]
    if shared:
        say(
            f"{len(shared)} of {pool.facts['test_tasks']} test tasks stand in the training data "
            f"too, such as {shared[0]!r}: they are not unseen"
        )
    say(
        f"data: {count(len(pool.usable), 'training row')} of "
        f"{count(len(np.unique(pool.train.task_index[pool.usable])), 'task')}, "
        f"{count(len(pool.test), 'test row')} of "
        f"{count(len(np.unique(pool.test.task_index)), 'task')}"
    )
    if pool.facts["split"]:
        say(
            f"test rows: {len(pool.aimed):,} to arrange toward, {len(pool.scored):,} to score on"
            f"{but_alike(pool.facts)}"
        )
    if told := copies(pool.facts):
        say(f"{len(pool.scored):,} test rows{told}")
    return Reading(tokenizer, form), pool


def make_form(config: ConfigDict, tokenizer: Tokenizer, folder: str) -> prompts.Form:
    """How examples are put into tokens; `folder` is the tokenizer's, or its name."""
    return decoders.form(flatten(config), tokenizer, folder)


def open_tests(
    config: ConfigDict,
    tokenizer: Tokenizer | None,
    scratch: Path,
    stack: ExitStack,
    *,
    lenient: bool = False,
) -> Dataset:
    """The test side alone, of a source that is no part of the study.

    `lenient`: it may lack old names of fields, which its training rows had alone.
    """
    options = read_options(config, scratch, tokenizer)
    names = OldNames() if lenient else None
    options = dataclasses.replace(options, old_names=names)
    dataset = stack.enter_context(sources.open_source(config.data.test, options, "test"))
    if names is not None:
        names.tell()
    tell_skipped(dataset.skipped, len(dataset.skipped), "")
    return _by_answer(config, dataset, "test")


def read_options(config: ConfigDict, scratch: Path, ready: Tokenizer | None) -> ReadOptions:
    """How the sources that a config names are read; `ready` counts tokens of prompts."""
    data = config.data
    return ReadOptions(
        scratch,
        bad_rows=data.bad_rows,
        format=data.format,
        fields=parse_fields(data.fields),
        instructions=Options(**data.natural_instructions.to_dict(), seed=data.seed),
        tokenizer=ready,
        keep_all=True,
        max_row_bytes=data.max_row_bytes,
    )


def _load(
    config: ConfigDict, workdir: Path, ready: Tokenizer | None, stack: ExitStack
) -> tuple[Dataset, Dataset]:
    data = config.data
    options = read_options(config, workdir / layout.SCRATCH, ready)
    train, test = sources.load(
        data.train,
        data.test,
        options,
        stack,
        rewrites_options=data.rewrites.to_dict(),
        selection=Selection(data.split, data.train_per_task, data.test_per_task, data.seed),
    )
    # Tokens are those that the first process makes; what the rows are is compared by `claim_data`.
    same_everywhere({"rows of data.train": len(train), "rows of data.test": len(test)})
    skipped = each_once(train.skipped, test.skipped)
    tell_skipped(skipped, len(skipped), f"; all are listed in {workdir / layout.DATA}")
    return _by_answer(config, train, "training"), _by_answer(config, test, "test")


def _by_answer(config: ConfigDict, dataset: Dataset, side: str) -> Dataset:
    return by_answer(dataset, side) if config.data.answers == prompts.EACH else dataset


def claim_data(
    config: ConfigDict, workdir: Path, pool: Pool, origin: Origin, start: Path | None = None
) -> None:
    """Binds the workdir to these examples, tokens and weights, or refuses it if it has others.

    Of a study that is a part, they must be those of the one that it starts from, too; and the same
    on every process, each of which reads its own part of them.
    """
    facts = _facts(config, pool, origin)
    same_files(claims.digests(facts))

    def bind() -> None:
        if start is not None:
            claims.check_data(start, facts)
        claims.claim_data(workdir, facts)
        write_json(workdir / layout.MODEL, huggingface.config_json(origin.model))

    once("claim data", bind)


def _facts(config: ConfigDict, pool: Pool, origin: Origin) -> dict[str, Any]:
    """What the inputs are: counts, and digests of what decides the numbers."""
    digest = ""
    if origin.weights:
        # Weights that do not fit are refused here, before anything is embedded.
        digest = initial_weights.digest(origin.weights, origin.model)
    elif is_file(config.model.size):
        digest = file_digest(Path(config.model.size))
    scores = check_scores(config.arrangement.methods, pool.train.select(pool.usable))
    sets = json.dumps([[one.name, str(one.share), one.budget] for one in pool.test.sets])
    return {
        **pool.facts,
        **({claims.SHARES: hashlib.sha256(sets.encode()).hexdigest()} if pool.test.sets else {}),
        "weights_digest": digest,
        claims.ENDS: origin.ends,
        claims.SCORES_DIGESTS: scores,
        **scoring_facts(config, pool.measured_on.instances, origin.ends),
    }


def scoring_facts(config: ConfigDict, tests: Dataset, ends: tuple[int, ...]) -> dict[str, Any]:
    """What decides scores besides the parameters and `Dataset.digest`, by digests.

    Args:
        config: its `evaluation` says what is measured.
        tests: the rows that are measured.
        ends: the tokens that end a text, beside the tokenizer's.
    """
    facts: dict[str, Any] = {}
    texts = config.evaluation.texts
    if reward_model := texts.reward_model:
        words = from_folder(reward_model)
        special = words.special_tokens
        template = jinja.load(texts.reward_template, reward_model, special, key=REWARD_TEMPLATE)
        facts[claims.REWARD_DIGEST] = huggingface.files_digest(reward_model)
        facts["reward_words_digest"] = "".join(
            one.fingerprint[:32] for one in (words, template) if one is not None
        )
    if set(config.evaluation.metrics) != {"loss"}:
        # No digest of instances holds them, since all but scores stays as it is without them.
        categories = [one.category for one in tests]
        facts[claims.CATEGORIES] = texts_digest(categories)
    if need_texts(config.evaluation.metrics):
        facts[claims.TEXT_ENDS] = str(ends)
    if texts.rouge_tokenizer:
        facts["rouge_tokenizer_digest"] = from_folder(texts.rouge_tokenizer).fingerprint
    return facts


def keep_shown(workdir: Path, test: Dataset) -> None:
    """Keeps the beginnings of the scored test rows, up to some thousands, for the page alone."""
    path = workdir / layout.SHOWN
    if path.exists() or len(test) > MOST_SHOWN:
        return
    rows = (
        {
            "id": one.id,
            "task": one.task,
            "prompt": _cut("\n\n".join(turn.text for turn in one.turns[:-1])),
            "references": [_cut(reference) for reference in one.references],
        }
        for one in test
    )
    write_bytes(path, b"".join(map(json_line, rows)))


def _cut(text: str) -> str:
    """The beginning of a text, with a sign where that is not all of it."""
    return text if len(text) <= LETTERS_SHOWN else f"{text[:LETTERS_SHOWN]} …"


def check_steps(config: ConfigDict, rows: int) -> None:
    """Refuses numbers of steps that no arrangement can serve, before any is made."""
    training, budget = config.training, config.arrangement.budget
    epochs = len(training.epochs)
    most = -(-epochs * rows // training.batch_size)
    least = -(-epochs * min(budget or rows, rows) // training.batch_size)
    if budget is not None and budget > rows:
        say(
            f"arrangement.budget={budget:,} is more than the {rows:,} usable rows: all that may be "
            "chosen are"
        )
    if most == 1:
        say(
            f"{rows:,} rows make one step of training.batch_size={training.batch_size}, in which "
            "their order cannot matter; a smaller batch makes more steps"
        )
    if training.steps is not None and training.steps > most:
        raise UserError(
            f"training.steps={training.steps}, but {rows} training rows make {most} steps; give "
            "more rows, more training.epochs, or leave training.steps out"
        )
    schedule(
        training.schedule,
        training.learning_rate,
        training.steps or least,
        training.warmup_steps,
    )


def make_steps(
    examples: TokenizedExamples,
    order: np.ndarray,
    mesh: Mesh,
    *,
    longest: int,
    max_length: int,
    batch_size: int,
    micro_batch_size: int | None,
    packing: bool,
) -> Steps:
    """The batches of an order of examples, by step, of which each process lays its part.

    Args:
        longest: tokens of the longest example, to which sequences are cut down.
        max_length: tokens at most of a sequence.
        batch_size, micro_batch_size, packing: as the config's training has them.
    """
    at_once = SequencesAtOnce(sharding.row_devices(mesh), micro_batch_size or batch_size)
    return Steps(
        examples,
        order,
        batch_size=batch_size,
        length=sequence_length(longest, max_length),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        packing=at_once if packing else None,
    )
