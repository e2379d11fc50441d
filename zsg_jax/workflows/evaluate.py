"""Evaluates alone: checkpoints of runs, a Hugging Face folder, or texts that others generated."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.config import from_flat
from zsg_jax.data.dataset import Dataset
from zsg_jax.data.instance import texts_digest
from zsg_jax.data.pool import TestSet, choose_tokenizer, make_tests
from zsg_jax.data.tokenize.tokenizer import from_folder
from zsg_jax.evaluation import decoding, predictions
from zsg_jax.evaluation.evaluator import Evaluator, checkpoint_params
from zsg_jax.evaluation.metrics import FIELDS
from zsg_jax.evaluation.records import GENERATIONS, json_line
from zsg_jax.evaluation.scores import METRICS as SCORES
from zsg_jax.models import huggingface
from zsg_jax.models.huggingface.read_adapters import add_adapters
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import need_json, recording, write_bytes
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import named_by, setting
from zsg_jax.training import checkpoint, sharding
from zsg_jax.workdir import begun, claims, growth, hub, layout, lock, manifest, trained
from zsg_jax.workflows.afterwards import measure
from zsg_jax.workflows.evaluate_options import (
    EvaluateOptions,
    check_options,
    configured,
    flags,
)
from zsg_jax.workflows.evaluate_output import (
    BEFORE,
    CHECKPOINT,
    COPIED,
    FILE,
    REQUEST,
    WEIGHTS,
    Record,
    Records,
    Subject,
    claim,
    claim_subject,
    keep_digests,
)
from zsg_jax.workflows.evaluators import make_evaluators, reward_model, with_folders
from zsg_jax.workflows.study_data import (
    Reading,
    claim_data,
    make_form,
    open_pool,
    open_tests,
    scoring_facts,
)
from zsg_jax.workflows.study_model import Origin, find_origin, make_trainer

MAX_LENGTH = 1024  # as arXiv 2406.11721 cuts test rows
# Of evaluation.texts, what digests tell of.
_BY_DIGEST = ("reward_model", "reward_template", "rouge_tokenizer")


def run(options: EvaluateOptions) -> Path:
    """Evaluates what is named and writes a record of each subject into `options.output`.

    A record of a checkpoint holds the fields of the run's own test record of that step; another
    mesh gives the same but for rounding. Run again, it goes on where it was stopped, and measures
    what a study has been asked for since.

    Returns:
        The file of records, one JSON object a line, in the order in which they were named. Records
        of examples lie beside it, those of runs in a folder of the run's name.

    Raises:
        UserError: flags that do not go together; a path that is no run or checkpoint, a checkpoint
            that is damaged, or a study whose data, tokenizer or first weights are no longer what it
            was made from; an output folder of another evaluation, or of one that followed from
            something else; records in it that have changed.
    """
    path = options.output / FILE
    with ExitStack() as stack:
        stack.enter_context(named_by(flags(options)))
        check_options(options)
        if not (options.output / REQUEST).exists():
            claims.check_output(options.output, BEFORE, "evaluation")
        subjects = _subjects(_fetched(options), stack)
        first = next(subjects)  # a mistake is told before the output folder is there
        options.output.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock.locked(options.output, flag="--output"))
        claim(options)
        records = Records(path)
        for subject in (first, *subjects):
            known = records.of(subject)
            claim_subject(options.output, subject, records)
            lacking = [name for name in subject.metrics if FIELDS[name] not in (known or {})]
            if known is not None and not lacking:
                continue
            fields = subject.measure(lacking, known or {})
            keep_digests(options.output, subject)
            records.put(subject.facts | (known or {}) | fields, known)
            say(f"{subject.name}: {_told(fields)}")
    return path


def _fetched(options: EvaluateOptions) -> EvaluateOptions:
    """The options with local folders for names of the hub, but for those that records tell."""
    reward, words = options.reward_model or "", options.rouge_tokenizer or ""
    tokenizer = options.tokenizer or options.model
    hub.fetch(
        options.output,
        models=(options.model, reward),
        tokenizers=(tokenizer, reward, words),
        adapters=(options.adapters,),
    )
    local: dict[str, Any] = {
        name: hub.folder(given, options.output)
        for name in ("reward_model", "rouge_tokenizer", "tokenizer")
        if (given := getattr(options, name))
    }
    return dataclasses.replace(options, **local)


def _subjects(options: EvaluateOptions, stack: ExitStack) -> Iterator[Subject]:
    if not options.checkpoint and not options.model:
        yield _texts(options, stack)
        return
    mesh = sharding.make_mesh(*options.mesh)
    if options.model:
        yield _model(options, mesh, stack)
        return
    runs = [_run_of(given) for given in options.checkpoint or ()]
    homes = {run.name: run.workdir for run in runs}
    for run in runs:
        check(
            homes[run.name] == run.workdir,
            f"--checkpoint: both {homes[run.name]} and {run.workdir} have a run {run.name}; "
            "evaluate them into folders of their own",
        )
    # Runs of one study that follow one another share its data and its compiled steps.
    for workdir, several in groupby(runs, lambda one: one.workdir):
        with ExitStack() as inner:
            yield from _checkpoints(options, workdir, several, mesh, inner)


def _run_of(given: str) -> trained.TrainedRun:
    run = trained.run_of(given)
    if run is None:
        raise UserError(
            f"--checkpoint {given}: is no run of a study; give WORKDIR/runs/NAME-seedK, or "
            "…/checkpoints/STEP below it"
        )
    return run


def _checkpoints(
    options: EvaluateOptions,
    workdir: Path,
    runs: Iterable[trained.TrainedRun],
    mesh: Mesh,
    stack: ExitStack,
) -> Iterator[Subject]:
    """The checkpoints of a study's runs, on its test rows or on others."""
    manifest.check_whole(workdir)
    flat = need_json(workdir / layout.CONFIG, ("seeds",), "give a run of a study that has trained")
    study = with_folders(from_flat(flat), workdir)
    config = configured(options, study)
    writable = os.access(workdir, os.W_OK)
    check(
        writable or options.test is not None,
        f"{setting('workdir')} {workdir}: may not be written, as checking the study's own test "
        "rows asks for; give the rows by --test, or a copy of the workdir",
    )
    if writable:
        stack.enter_context(lock.locked(workdir, flag=setting("workdir")))
    if options.test is None:
        # What this version tells of the same inputs may be more.
        stack.enter_context(recording(manifest.Manifest(workdir).placing))
        with begun.whence(workdir, flat):
            reading, pool = open_pool(study, workdir, stack)
            origin = find_origin(study, reading.tokenizer, workdir)
            claim_data(study, workdir, pool, origin)
        tests = pool.measured_on
    else:
        known = trained.read_study(workdir, "give a run of a study that has trained")
        form = make_form(config, known.tokenizer, known.tokenizer_name)
        reading = Reading(known.tokenizer, form)
        origin = find_origin(study, reading.tokenizer, workdir)
        lenient = options.data_fields is None
        tests = _tests(config, reading, options.output, stack, lenient=lenient)
    trainer = make_trainer(_untrained(study, mesh), reading.tokenizer, mesh, origin)
    scheduled = make_evaluators(config, tests, reading, trainer, origin)
    read = _read(config, tests.instances, reading, origin)
    # Of adapters a checkpoint does not hold what they are added to.
    facts = need_json(workdir / layout.DATA, claims.DIGESTS)
    read[WEIGHTS] = facts[WEIGHTS]
    for run in runs:
        found = trained.checkpoints(run, "--checkpoint").whole(run.step)
        step, seed = int(found.name), int(run.name.rpartition("-seed")[2])
        params = partial(checkpoint_params, trainer, found, seed)
        yield Subject(
            {"run": run.name, "workdir": str(workdir), "step": step},
            read | {CHECKPOINT: checkpoint.digest(found)},
            folder := options.output / run.name,
            config.evaluation.metrics,
            partial(_measure, scheduled, params, step, folder),
        )


def _read(config: ConfigDict, tests: Dataset, reading: Reading, origin: Origin) -> Record:
    """What any parameters are measured on and by: digests, and what a study may be given later."""
    metrics, texts = config.evaluation.metrics, config.evaluation.texts
    settings = {f"evaluation.texts.{name}": texts[name] for name in texts if name not in _BY_DIGEST}
    read = {key: one for key, one in settings.items() if growth.is_read(key, metrics)}
    if how := read.get("evaluation.texts.decoding"):
        read["evaluation.texts.decoding"] = decoding.parse(how)._asdict()
    return {
        "test_digest": tests.digest,
        "tokenizer_digest": reading.tokenizer.fingerprint,
        "template_digest": reading.form.fingerprint,
        # Of earlier versions, and of those that measured no ROUGE, it is not there.
        **({"rouge_tokenizer_digest": ""} if "rouge" in metrics else {}),
        **scoring_facts(config, tests, origin.ends),
        "evaluation.max_length": config.evaluation.max_length,
        **{key: list(one) if isinstance(one, tuple) else one for key, one in read.items()},
    }


def _untrained(config: ConfigDict, mesh: Mesh) -> ConfigDict:
    """The config with steps that any mesh takes, since none is trained."""
    config = config.copy_and_resolve_references()
    config.training.batch_size = sharding.row_devices(mesh)
    config.training.micro_batch_size = None
    return config


def _measure(
    scheduled: Iterable[tuple[Evaluator, int]],
    params: Callable[[], Params],
    step: int,
    folder: Path,
    names: Sequence[str],
    known: Record,
) -> Record:
    """The fields of the metrics `names`; `known` is the record of those measured before."""
    evaluators = [evaluator for evaluator, _ in scheduled]
    generated = FIELDS["generate"] in known
    return measure(evaluators, names, step, folder, params, generated=generated)


def _tests(
    config: ConfigDict, reading: Reading, output: Path, stack: ExitStack, *, lenient: bool = False
) -> TestSet:
    scratch = output / layout.SCRATCH
    dataset = open_tests(config, reading.tokenizer, scratch, stack, lenient=lenient)
    length = config.evaluation.max_length
    return make_tests(dataset, reading.tokenizer, length, reading.form, config.data.bad_rows)


def _model(options: EvaluateOptions, mesh: Mesh, stack: ExitStack) -> Subject:
    """A Hugging Face folder, with adapters or without."""
    config = configured(options)
    folder = hub.folder(config.tokenizer, options.output)
    tokenizer = choose_tokenizer(folder, options.output / layout.TOKENIZER)
    if options.max_length is None:
        weights = hub.folder(options.model, options.output)
        config.evaluation.max_length = min(
            MAX_LENGTH, huggingface.read_config(weights).max_positions
        )
    config.data.max_length = config.evaluation.max_length
    reading = Reading(tokenizer, make_form(config, tokenizer, folder))
    origin = find_origin(config, tokenizer, options.output)
    trainer = make_trainer(_untrained(config, mesh), tokenizer, mesh, origin)
    tests = _tests(config, reading, options.output, stack)
    scheduled = make_evaluators(config, tests, reading, trainer, origin)

    adapters = Path(hub.folder(options.adapters, options.output))

    def params() -> Params:
        found = trainer.first_params()
        if options.adapters:
            found = add_adapters(found, trainer.model, adapters)
        return found

    facts = {"model": options.model}
    if options.adapters:
        facts["adapters"] = options.adapters
    told = {WEIGHTS: huggingface.check_folder(str(origin.weights), origin.model)}
    read = _read(config, tests.instances, reading, origin) | told

    def measured(names: Sequence[str], known: Record) -> Record:
        return told | _measure(scheduled, params, 0, options.output, names, known)

    return Subject(facts, read, options.output, config.evaluation.metrics, measured)


def _texts(options: EvaluateOptions, stack: ExitStack) -> Subject:
    """Texts that others have generated, or that need no model."""
    config = configured(options)
    # No prompt is read, so none need be cut.
    config.data.natural_instructions.max_source = 0
    tests = open_tests(config, None, options.output / layout.SCRATCH, stack)
    if options.metrics is None:
        config.evaluation.metrics = ("rouge", "exact_match")
    metrics = config.evaluation.metrics
    words = config.evaluation.texts.rouge_tokenizer

    copied = _copied(options.baseline, tests) if options.baseline else None

    def measured(names: Sequence[str], known: Record) -> Record:
        given: Sequence[str | None] = copied or predictions.read_predictions(
            Path(options.predictions), tests.ids
        )
        texts = [text or "" for text in given]
        rewards, cut = None, 0
        if "reward" in metrics:
            mesh = sharding.make_mesh(*options.mesh)
            model = reward_model(config.evaluation.texts, mesh)
            rewards = model.score([one.turns[:-1] for one in tests], texts, tests.ids)
            cut = model.tell()
        scored = predictions.score_texts(
            tests,
            texts,
            [name for name in metrics if name in SCORES],
            from_folder(words) if words else None,
            rewards,
        )
        write_bytes(options.output / GENERATIONS, b"".join(map(json_line, scored.records)))
        missing = sum(text is None for text in given)
        empty = sum(not text.strip() for text in texts) - missing
        told = {"instances": len(texts), "empty": empty, "missing": missing}
        return told | ({"reward_cut": cut} if cut else {}) | scored.fields

    facts = {"predictions": options.predictions} if options.predictions else {}
    facts = facts or {"baseline": options.baseline}
    read = {"test_digest": tests.digest, **scoring_facts(config, tests, ())}
    if copied is not None:
        # What a row has besides its instance, of which its digest tells nothing.
        read[COPIED] = texts_digest(copied)
    return Subject(facts, read, options.output, metrics, measured)


def _copied(baseline: str, tests: Dataset) -> list[str]:
    """The text of each row that a baseline copies."""
    found = getattr(predictions, baseline)(tests)
    return [found[one] for one in tests.ids]


def _told(record: Record) -> str:
    """The means of a record, in a line."""
    told = [
        f"{name} {value:.4f}"
        for name, value in record.items()
        if isinstance(value, float) and not name.endswith("_over_tasks")
    ]
    return ", ".join(told) or "nothing is measured but what is kept"
