"""Evaluates alone: checkpoints of runs, a Hugging Face folder, or texts that others generated."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.config import from_flat
from zsg_jax.data.dataset import Dataset
from zsg_jax.data.pool import TestSet, choose_tokenizer, make_tests
from zsg_jax.data.tokenize.tokenizer import from_folder
from zsg_jax.evaluation import predictions
from zsg_jax.evaluation.evaluator import Evaluator, checkpoint_params, evaluate
from zsg_jax.evaluation.records import GENERATIONS, append, json_line, mended
from zsg_jax.evaluation.scores import METRICS as SCORES
from zsg_jax.models import huggingface
from zsg_jax.models.huggingface.read_adapters import add_adapters
from zsg_jax.models.placement import Params
from zsg_jax.runtime.appended import Written
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import (
    content_digest,
    need_json,
    read_json,
    recording,
    write_bytes,
    write_json,
)
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import flag, named_by, setting
from zsg_jax.training import checkpoint, sharding
from zsg_jax.workdir import begun, claims, hub, layout, lock, manifest, trained
from zsg_jax.workflows.evaluate_options import (
    EvaluateOptions,
    check_options,
    configured,
    flags,
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

FILE = "evaluation.jsonl"
REQUEST = "evaluation.json"
# Options that may be paths, of what records tell nothing of but the name.
_INPUTS = (
    *("test", "predictions", "adapters", "tokenizer", "template"),
    *("reward_model", "reward_template", "rouge_tokenizer"),
)
_READ = "read"  # in the request, by subject
# What messages call the digests of `Subject.read`.
_TOLD = claims.DIGESTS | claims.MORE_DIGESTS | {"checkpoint_digest": "the checkpoint"}
# What the output folder may hold before the request is written there.
_BEFORE = (layout.SCRATCH, layout.TOKENIZER, layout.HUB)
MAX_LENGTH = 1024  # as arXiv 2406.11721 cuts test rows
Record = dict[str, Any]


class Subject(NamedTuple):
    """What is evaluated.

    Attributes:
        facts: what its record says of it, which no other subject of the request has.
        read: digests of what it is measured on and by, which its records tell nothing of.
        folder: for its records of examples.
        measure: gives the fields, with that folder.
    """

    facts: Record
    read: Record
    folder: Path
    measure: Callable[[Path], Record]


def run(options: EvaluateOptions) -> Path:
    """Evaluates what is named and writes a record of each subject into `options.output`.

    A record of a checkpoint holds the fields of the run's own test record of that step; another
    mesh gives the same but for rounding. Run again, it goes on where it was stopped.

    Returns:
        The file of records, one JSON object a line, in the order in which they were named. Records
        of examples lie beside it, those of runs in a folder of the run's name.

    Raises:
        UserError: flags that do not go together; a path that is no run or checkpoint, a checkpoint
            that is damaged, or a study whose data, tokenizer or first weights are no longer what it
            was made from; an output folder of another evaluation.
    """
    path = options.output / FILE
    with ExitStack() as stack:
        stack.enter_context(named_by(flags(options)))
        check_options(options)
        if not (options.output / REQUEST).exists():
            claims.check_output(options.output, _BEFORE, "evaluation")
        subjects = _subjects(_fetched(options), stack)
        first = next(subjects)  # a mistake is told before the output folder is there
        options.output.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock.locked(options.output, flag="--output"))
        _claim(options)
        done = mended(path)
        written = Written(path)
        for subject in (first, *subjects):
            measured = any(subject.facts.items() <= one.items() for one in done)
            _claim_read(options.output, subject, measured)
            if measured:
                continue
            record = subject.facts | subject.measure(subject.folder)
            append(path, written, [record])
            say(f"{_name(subject.facts)}: {_told(record)}")
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


def _claim(options: EvaluateOptions) -> None:
    """Makes the output folder this request's own, or checks that it already is."""
    asked = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(options).items()
        if key not in ("output", "mesh")
    }
    given = {name: str(getattr(options, name) or "") for name in _INPUTS}
    inputs = {name: content_digest(Path(path)) for name, path in given.items() if path}
    known = read_json(options.output / REQUEST) or {}
    read = known.pop(_READ, {})
    begun = any(one.stat().st_size for one in options.output.glob("**/*.jsonl"))
    # Evaluations of earlier versions told no digests.
    were = known.pop("inputs", inputs)
    check(
        known == asked or not begun,
        f"--output {options.output}: holds another evaluation, whose flags are in {REQUEST}; give "
        "another folder, or the same flags to go on",
    )
    for name, digest in inputs.items():
        check(
            not begun or digest != "" or not Path(given[name]).exists(),
            f"{flag(name)} {given[name]}: is a pipe, and may hold something else than what "
            f"{options.output} was begun with; give another --output, or a file",
        )
        check(
            were.get(name) == digest or not begun,
            f"{flag(name)} {given[name]}: has changed since {options.output} was begun; give "
            "another --output, or what it was begun with",
        )
    write_json(options.output / REQUEST, asked | {"inputs": inputs, _READ: read if begun else {}})


def _claim_read(output: Path, subject: Subject, measured: bool) -> None:
    """Notes what a subject is measured on, or checks that its records were measured on the same."""
    request = need_json(output / REQUEST, (_READ,))
    name = _name(subject.facts)
    if measured or any(one.stat().st_size for one in subject.folder.glob("*.jsonl")):
        # What earlier versions told no digest of binds nobody.
        were = request[_READ].get(name, {})
        other = [key for key, now in subject.read.items() if were.get(key, now) != now]
        check(
            not other,
            f"{name}: {' and '.join(_TOLD[key] for key in other)} changed since it was measured "
            f"into {output}; give another --output, or what it was measured with",
        )
    request[_READ][name] = subject.read
    write_json(output / REQUEST, request)


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
        tests = _tests(config, reading, options.output, stack)
    trainer = make_trainer(_untrained(study, mesh), reading.tokenizer, mesh, origin)
    scheduled = make_evaluators(config, tests, reading, trainer, origin)
    read = _read(config, tests.instances, reading, origin)
    # Of adapters a checkpoint does not hold what they are added to.
    facts = need_json(workdir / layout.DATA, claims.DIGESTS)
    read["weights_digest"] = facts["weights_digest"]
    for run in runs:
        found = trained.checkpoints(run, "--checkpoint").whole(run.step)
        step, seed = int(found.name), int(run.name.rpartition("-seed")[2])
        params = partial(checkpoint_params, trainer, found, seed)
        yield Subject(
            {"run": run.name, "workdir": str(workdir), "step": step},
            read | {"checkpoint_digest": checkpoint.digest(found)},
            options.output / run.name,
            partial(_measure, scheduled, params, step),
        )


def _read(config: ConfigDict, tests: Dataset, reading: Reading, origin: Origin) -> Record:
    """Digests of what any parameters are measured on and by."""
    return {
        "test_digest": tests.digest,
        "tokenizer_digest": reading.tokenizer.fingerprint,
        "template_digest": reading.form.fingerprint,
        **scoring_facts(config, tests, origin.weights),
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
) -> Record:
    return evaluate([evaluator for evaluator, _ in scheduled], params(), step, folder)


def _tests(config: ConfigDict, reading: Reading, output: Path, stack: ExitStack) -> TestSet:
    dataset = open_tests(config, reading.tokenizer, output / layout.SCRATCH, stack)
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

    facts = {
        "model": options.model,
        "weights_digest": huggingface.check_folder(str(origin.weights), origin.model),
    }
    if options.adapters:
        facts["adapters"] = options.adapters
    read = _read(config, tests.instances, reading, origin)
    return Subject(facts, read, options.output, partial(_measure, scheduled, params, 0))


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

    def measure(output: Path) -> Record:
        given = _given_texts(options, tests)
        texts = [text or "" for text in given]
        rewards = None
        if "reward" in metrics:
            mesh = sharding.make_mesh(*options.mesh)
            model = reward_model(config.evaluation.texts, mesh)
            rewards = model.score([one.turns[:-1] for one in tests], texts)
        scored = predictions.score_texts(
            tests,
            texts,
            [name for name in metrics if name in SCORES],
            from_folder(words) if words else None,
            rewards,
        )
        write_bytes(output / GENERATIONS, b"".join(map(json_line, scored.records)))
        missing = sum(text is None for text in given)
        empty = sum(not text.strip() for text in texts) - missing
        return {"instances": len(texts), "empty": empty, "missing": missing, **scored.fields}

    facts = {"predictions": options.predictions} if options.predictions else {}
    facts = facts or {"baseline": options.baseline}
    read = {"test_digest": tests.digest, **scoring_facts(config, tests, None)}
    return Subject(facts, read, options.output, measure)


def _given_texts(options: EvaluateOptions, tests: Dataset) -> Sequence[str | None]:
    if options.predictions:
        return predictions.read_predictions(Path(options.predictions), tests.ids)
    found = getattr(predictions, options.baseline)(tests)
    return [found[one] for one in tests.ids]


def _name(facts: Record) -> str:
    if "run" in facts:
        return f"{facts['run']}, step {facts['step']}"
    return str(next(iter(facts.values())))


def _told(record: Record) -> str:
    """The means of a record, in a line."""
    told = [
        f"{name} {value:.4f}"
        for name, value in record.items()
        if isinstance(value, float) and not name.endswith("_over_tasks")
    ]
    return ", ".join(told) or "nothing is measured but what is kept"
