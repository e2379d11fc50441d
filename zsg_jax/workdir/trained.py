"""What a workdir says of the model that was trained in it: to export it, or to train on from it."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.data.pool import choose_tokenizer
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.models import huggingface
from zsg_jax.models.families import ModelConfig, is_file
from zsg_jax.models.lora import LoRA
from zsg_jax.runtime.errors import UserError, check, did_you_mean
from zsg_jax.runtime.files import file_digest, need_json, read_json
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import setting
from zsg_jax.training import checkpoint
from zsg_jax.training.checkpoint import Checkpoints
from zsg_jax.training.finished import FINISHED
from zsg_jax.workdir import begun, claims, hub, layout, manifest

CHECKPOINTS = "checkpoints"
# Where runs lie; those of pretraining are called after no arrangement.
RUNS = ("runs", "pretraining")


class TrainedRun(NamedTuple):
    """A run, or one checkpoint of it.

    Attributes:
        workdir: the study's.
        name: the run's, as NAME-seedK.
        step: the checkpoint's; None: the newest.
    """

    workdir: Path
    name: str
    step: int | None = None


class TrainedStudy(NamedTuple):
    """What a study was made from, found unchanged.

    Attributes:
        config: flat, as in its config.json.
        tokenizer: its tokenizer.
        tokenizer_name: "bytes", "train", or the tokenizer's local folder.
        model: the shape of what it trains, without padding.
        source: the Hugging Face folder that it, or the study that it goes on from, began with; None
            where there was none, or it is gone.
        weights: the folder or the checkpoint that it began with; None: random weights.
        lora: the adapters that it trains; None: the weights.
        ends: the tokens that end a text by the generation_config.json that it began with.
    """

    config: dict[str, Any]
    tokenizer: Tokenizer
    tokenizer_name: str
    model: ModelConfig
    source: Path | None
    weights: Path | None
    lora: LoRA | None
    ends: tuple[int, ...] = ()


def run_of(path: str | Path) -> TrainedRun | None:
    """The run that `WORKDIR/runs/NAME-seedK`, or `…/checkpoints/STEP` below it, means.

    Returns:
        None for a path of any other shape, and for a folder with a config.json of its own.
    """
    folder = Path(os.path.abspath(path))
    if (folder / "config.json").exists():
        return None
    step = None
    if folder.name.isascii() and folder.name.isdigit() and folder.parent.name == CHECKPOINTS:
        step, folder = int(folder.name), folder.parent.parent
    if step is None and not (folder / CHECKPOINTS).is_dir() and folder.parent.name != "runs":
        return None
    return TrainedRun(folder.parent.parent, folder.name, step)


def folder_of(run: TrainedRun, flag: str) -> Path:
    """Where a run's records and checkpoints are.

    Args:
        flag: what the user gave the run by.

    Raises:
        UserError: the workdir has no such run.
    """
    folders = [run.workdir / part for part in RUNS]
    known = {path.name: path for one in folders if one.is_dir() for path in sorted(one.iterdir())}
    check(
        run.name in known,
        f"{flag} {run.name}: {run.workdir} has {', '.join(known) or 'no runs'}"
        f"{did_you_mean(run.name, known)}",
    )
    return known[run.name]


def checkpoints(run: TrainedRun, flag: str) -> Checkpoints:
    """The checkpoints of a run, of which the newest is that of its end, if it has ended.

    Raises:
        UserError: as `folder_of`.
    """
    folder = folder_of(run, flag)
    end = (read_json(folder / FINISHED) or {}).get("steps")
    return Checkpoints(folder / CHECKPOINTS, end=end)


def read_study(workdir: Path, way_out: str) -> TrainedStudy:
    """The study of a workdir.

    Args:
        way_out: what to do where it is none.

    Raises:
        UserError: it is none, or its tokenizer or the weights it began with have changed or gone.
    """
    manifest.check_whole(workdir)
    config = need_json(workdir / layout.CONFIG, ("model.family", "tokenizer"), way_out)
    facts = need_json(workdir / layout.DATA, claims.DIGESTS, way_out)
    with begun.whence(workdir, config):
        study = _read_study(workdir, config, facts)
    # Those of earlier versions do not tell.
    told = facts.get(claims.ENDS)
    return study._replace(ends=huggingface.eos_ids(study.source) if told is None else tuple(told))


def _read_study(workdir: Path, config: dict[str, Any], facts: dict[str, Any]) -> TrainedStudy:
    name = hub.folder(config["tokenizer"], workdir)
    tokenizer = choose_tokenizer(name, workdir / layout.TOKENIZER)
    _check_same(config["tokenizer"], tokenizer.fingerprint, facts["tokenizer_digest"], "tokenizer")
    init_from = hub.folder(config["model.init_from"], workdir)
    before = run_of(init_from) if init_from else None
    lora = _lora(config)
    if before is not None:
        model = huggingface.read_config(workdir / layout.MODEL)
        source, weights = _first_folder(before.workdir, model), None
        if lora is not None:
            weights = checkpoints(before, setting("model.init_from")).whole(before.step)
            found = checkpoint.digest(weights)
            _check_same(
                config["model.init_from"], found, facts["weights_digest"], "model.init_from"
            )
        return TrainedStudy(config, tokenizer, name, model, source, weights, lora)
    model = huggingface.find_config(
        config["model.family"],
        config["model.size"],
        init_from,
        vocab_size=tokenizer.vocab_size,
        max_positions=huggingface.read_config(workdir / layout.MODEL).max_positions,
    )
    if init_from:
        digest = huggingface.check_folder(init_from, model)
        _check_same(config["model.init_from"], digest, facts["weights_digest"], "model.init_from")
    elif is_file(config["model.size"]):
        digest = file_digest(Path(config["model.size"]))
        _check_same(config["model.size"], digest, facts["weights_digest"], "model.size")
    folder = Path(init_from) if init_from else None
    return TrainedStudy(config, tokenizer, name, model, folder, folder, lora)


def _lora(config: dict[str, Any]) -> LoRA | None:
    # Workdirs of earlier versions have fewer keys.
    keys = {one.name: f"model.lora.{one.name}" for one in fields(LoRA)}
    given = {name: config[key] for name, key in keys.items() if key in config}
    return LoRA(**given | {"targets": tuple(given["targets"])}) if given["rank"] else None


def _first_folder(workdir: Path, model: ModelConfig) -> Path | None:
    """The folder that a chain of studies began with, going back from `workdir`."""
    seen: set[Path] = set()
    while workdir not in seen:
        seen.add(workdir)
        try:
            config = read_json(workdir / layout.CONFIG, ("model.init_from",))
            facts = read_json(workdir / layout.DATA, claims.DIGESTS)
            if config is None or facts is None:
                break
            given = config["model.init_from"]
            if not given:
                return None
            folder = hub.folder(given, workdir, ask=False)
            before = run_of(folder)
            if before is not None:
                workdir = before.workdir
                continue
            if huggingface.check_folder(folder, model) == facts["weights_digest"]:
                return Path(folder)
        except UserError:
            pass
        break
    say(
        f"{workdir}: what its weights came from is gone or has changed; tensors are named as"
        " transformers names them, and the dtype is float32 unless another is asked for"
    )
    return None


def _check_same(given: str, found: str, digest: str, key: str) -> None:
    check(
        found == digest,
        f"{setting(key, repr(given))} has changed since the study was made; put back what it was "
        "made with",
    )
