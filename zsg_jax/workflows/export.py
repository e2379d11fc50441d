"""From a checkpoint of a study's run to a Hugging Face folder that any program can load."""

import json
import math
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from zsg_jax.data.pool import TRAINED
from zsg_jax.data.tokenize.tokenizer import FILES, Tokenizer
from zsg_jax.models.dtypes import DTYPES, SAME
from zsg_jax.models.huggingface.adapters import write_adapters
from zsg_jax.models.huggingface.write import write
from zsg_jax.models.placement import Params
from zsg_jax.runtime.buckets import fetched, is_address
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import replacing, write_json
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import named_by
from zsg_jax.training.checkpoint_files import MANIFEST
from zsg_jax.training.finished import FINISHED
from zsg_jax.workdir import decoders, hub, trained
from zsg_jax.workdir.lock import locked, refuse_address
from zsg_jax.workflows.export_options import ExportOptions

# Of a workdir, what no export reads.
_LARGE = ("embeddings", "tokens", "arrangements", "report")
_MODEL_FILES = ("generation_config.json",)


@named_by({"workdir": "--workdir"})
def run(options: ExportOptions) -> Path:
    """Exports what `options` name; the folder is there whole or not at all.

    Returns:
        The folder.

    Raises:
        UserError: it exists, there is no such run or checkpoint, a checkpoint is damaged, or the
            folders that training started from have changed or gone.
    """
    refuse_address(options.output, "--output")
    if is_address(options.workdir):
        with fetched(options.workdir, lambda names: _needed(options, names)) as folder:
            return _run(replace(options, workdir=folder))
    return _run(options)


def _run(options: ExportOptions) -> Path:
    output = Path(options.output)
    _check_new(output)
    check(
        options.dtype in (SAME, *DTYPES),
        f"--dtype {options.dtype}: choose one of {', '.join((SAME, *DTYPES))}",
    )
    gigabytes = options.file_gb
    check(0 < gigabytes < math.inf, f"--file-gb {gigabytes} must be a number above 0")
    check(
        not options.adapters or gigabytes == ExportOptions.file_gb,
        f"--file-gb {gigabytes:g}: PEFT reads adapters of one file alone; leave it out",
    )
    workdir = Path(options.workdir)
    study = trained.read_study(workdir, "give the --workdir of a study that has trained")
    run = trained.TrainedRun(workdir, options.run, options.step)
    check(
        not options.adapters or study.lora is not None,
        f"--adapters: {workdir} trains the weights themselves; leave it out",
    )
    if options.adapters:
        step, adapters = trained.checkpoints(run, "--run").parameters(run.step)
        _write_adapters(options, study, adapters)
        say(f"{options.run}: the adapters of step {step} are written to {output}")
        return output
    step, model, params = decoders.weights(study, run, "--run")
    source, tokenizer = study.source, study.tokenizer
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    with _writing(output) as partial:
        write(
            partial,
            model,
            params,
            source=source,
            dtype=options.dtype,
            file_bytes=int(options.file_gb * 1e9),
            more=ids,
        )
        _write_tokenizer(partial, study.tokenizer_name, tokenizer)
        if source:
            _copy(source, partial, _MODEL_FILES)
    say(f"{options.run}: step {step} is written to {output}")
    return output


def _check_new(output: Path) -> None:
    beside = _beside(output)
    if output.exists() and beside.exists():
        # A kill left it; while a command is at work there, it is that one's.
        with suppress(UserError), locked(beside, "--output", passing=True):
            pass
    check(
        not (output.exists() or output.is_symlink()),
        f"--output {output}: exists already; give a new folder",
    )


def _beside(output: Path) -> Path:
    """Where a command that writes `output` says so."""
    whole = output.absolute()  # ".", say, has no name
    return whole.parent / f".{whole.name}.exporting"


@contextmanager
def _writing(output: Path) -> Iterator[Path]:
    """A folder that takes the place of `output` at the end; of two commands the second ends."""
    beside = _beside(output)
    with locked(beside, "--output", passing=True):
        _check_new(output)
        with replacing(output) as partial:
            partial.mkdir()
            yield partial


def _needed(options: ExportOptions, names: Collection[str]) -> list[str]:
    """Of the files of a workdir, those that an export reads: of one run, one checkpoint."""
    run = f"runs/{options.run}"
    kept, told = f"{run}/{trained.CHECKPOINTS}/", f"{run}/{FINISHED}"
    manifests = [name for name in names if name.startswith(kept) and name.endswith(f"/{MANIFEST}")]
    chosen = max(manifests, default=kept).removesuffix(MANIFEST)
    if options.step is not None:
        chosen = f"{kept}{options.step:08d}/"
    return [
        name
        for name in names
        if name.startswith(chosen)
        or name in (*manifests, told)
        or name.partition("/")[0] not in (*_LARGE, "runs")
    ]


def _write_adapters(options: ExportOptions, study: trained.TrainedStudy, adapters: Params) -> None:
    assert study.lora is not None
    # As PEFT finds it: the hub's name without ours before it.
    base = study.config["model.init_from"].removeprefix(hub.HUB).partition("@")[0]
    with _writing(Path(options.output)) as partial:
        write_adapters(partial, study.model, adapters, study.lora, base=base, dtype=options.dtype)
        _write_tokenizer(partial, study.tokenizer_name, study.tokenizer)


def _write_tokenizer(folder: Path, name: str, tokenizer: Tokenizer) -> None:
    if name not in ("bytes", "train") and not (Path(name) / TRAINED).exists():
        _copy(Path(name), folder, FILES)
        return
    tokenizer.save(folder)
    path = folder / "tokenizer_config.json"
    # Without it transformers takes the class of the model's family, which splits texts its own way.
    write_json(path, json.loads(path.read_bytes()) | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
