"""The decoders that are at hand: a Hugging Face folder, or what a run of a workdir has trained."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from zsg_jax.data.tokenize import encode, jinja
from zsg_jax.data.tokenize.folder import FILE
from zsg_jax.data.tokenize.tokenizer import Tokenizer, from_folder
from zsg_jax.models import huggingface, lora
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.lora import LoRA
from zsg_jax.models.model import abstract
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import read_json
from zsg_jax.training.initial_weights import load, padded_as
from zsg_jax.workdir import trained
from zsg_jax.workdir.lock import refuse_address

# Keys of a config that decide how examples become tokens.
_FORM = (
    *("template", "template_args", "empty_thoughts", "answers", "truncation", "max_answer"),
    "join_tokens",
)
# What they are of a model that no study has trained.
_PLAIN = {
    "data.template": jinja.STUDY,
    "data.template_args": "",
    "data.empty_thoughts": encode.LEARN,
    "data.answers": encode.ALL,
    "data.truncation": "tail",
    "data.max_answer": None,
    "data.join_tokens": False,
}
_WHERE = "give a Hugging Face folder, a run as WORKDIR/runs/NAME-seedK[@STEP], or hub:OWNER/NAME"


class Decoder(NamedTuple):
    """A language model with what its texts are made by.

    Attributes:
        name: the folder's, or the run's with its step.
        model, params: its config and all its weights, in this process's memory.
        tokenizer, form: how examples become tokens.
    """

    name: str
    model: ModelConfig
    params: Params
    tokenizer: Tokenizer
    form: encode.Form


def open_decoder(given: str, folder: str, told: str, **changes: str) -> Decoder:
    """Loads a decoder.

    Args:
        given: what the user named it by.
        folder: the local folder of a name of the hub; else the same.
        told: what messages call it.
        changes: what of its form is otherwise than in training, as `form` takes it.

    Raises:
        UserError: there is none, or it or its tokenizer is damaged or not computed here.
    """
    refuse_address(folder, told)
    run = run_at(folder)
    if run is not None:
        study = study_of(run, told)
        step, model, params = weights(study, run, f"{told}: run")
        made = form_of(told, study.config, study.tokenizer, study.tokenizer_name, changes)
        return Decoder(f"{run.name}@{step}", model, params, study.tokenizer, made)
    refuse_other_folders(told, given, Path(folder), _WHERE)
    check(
        not (Path(folder) / "modules.json").exists(),
        f"{told}: is a sentence encoder; name its folder alone, or give the folder of a decoder",
    )
    model = huggingface.read_config(folder)
    check(
        (Path(folder) / FILE).is_file(),
        f"{told}: has no {FILE}, which makes tokens of texts; put the model's own there",
    )
    tokenizer = from_folder(folder)
    made = form_of(told, _PLAIN, tokenizer, folder, changes)
    name = Path(folder).resolve().name
    return Decoder(name, model, huggingface.load(folder, model), tokenizer, made)


def run_at(path: str) -> trained.TrainedRun | None:
    """As `trained.run_of`, of RUN@STEP too."""
    run, at, step = path.rpartition("@")
    if at and step.isascii() and step.isdigit() and not Path(path).exists():
        found = trained.run_of(run)
        return found and found._replace(step=int(step))
    return trained.run_of(path)


def study_of(run: trained.TrainedRun, told: str) -> trained.TrainedStudy:
    """The study of a run; refuses what lies in none."""
    return trained.read_study(run.workdir, f"{told}: lies in no workdir; {_WHERE}")


def form_of(
    told: str,
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    folder: str,
    changes: Mapping[str, str],
) -> encode.Form:
    """As `form`; `told` is what messages call the decoder."""
    try:
        return form(config, tokenizer, folder, **changes)
    except UserError as error:
        raise UserError(f"{told}: {error}") from None


def refuse_other_folders(told: str, given: str, folder: Path, where: str) -> None:
    """Tells what was meant where a folder is neither a Hugging Face folder nor a run.

    Args:
        told: what the user gave it as.
        given: what was given.
        folder: what it stands for on this disk.
        where: what to give.
    """
    if not folder.exists():
        named = re.fullmatch(r"[\w.-]+/[\w.-]+", given)
        fetched = f"; hub:{given} is fetched" if named else ""
        raise UserError(f"{told}: no such folder; {where}{fetched}")
    check(folder.is_dir(), f"{told}: is a file; give the folder it lies in")
    check(
        not (folder / "adapter_config.json").exists() or (folder / "config.json").exists(),
        f"{told}: holds adapters alone; give a folder they are merged into",
    )
    check(
        (folder / "config.json").exists(),
        f"{told}: has no config.json, and is no run of a study; {where}",
    )
    if "model.family" in (read_json(folder / "config.json") or {}):
        runs = sorted(str(path) for path in (folder / "runs").glob("*"))
        way_out = f"give one of its runs: {', '.join(runs)}" if runs else "train it first"
        raise UserError(f"{told}: is the workdir of a study; {way_out}")


def weights(
    study: trained.TrainedStudy, run: trained.TrainedRun, flag: str
) -> tuple[int, ModelConfig, Params]:
    """What a run has trained, in this process's memory; adapters merged into their weights.

    Args:
        study: what `trained.read_study` gives of the run's workdir.
        flag: what the user gave the run by.

    Returns:
        The checkpoint's step, the model with the padding of the checkpoint, and its parameters.

    Raises:
        UserError: there is no such run or checkpoint, or it is damaged.
    """
    step, params = trained.checkpoints(run, flag).parameters(run.step)
    if study.lora is not None:
        params = lora.merge(lora.join(params, frozen(study, study.lora)), study.lora)
    return step, padded_as(study.model, params["embed"]["embedding"].shape[0]), params


def frozen(study: trained.TrainedStudy, adapted: LoRA) -> Params:
    """The weights that a study of adapters began with, as it computes with them."""
    assert study.weights is not None
    here = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        abstract(study.model)[1],
    )
    base = load(study.weights, study.model, shapes)
    if adapted.base != "same":
        # From the numbers that it was packed from.
        computed = jax.tree.map(lambda leaf: leaf.astype(study.config["model.dtype"]), base)
        base = lora.rounded(computed, adapted)
    return base


def form(
    config: Mapping[str, Any], tokenizer: Tokenizer, folder: str, **changes: str
) -> encode.Form:
    """How a study puts examples into tokens.

    Args:
        config: flat.
        folder: the tokenizer's, or its name.
        changes: what is otherwise than in the config, by the last name of its key.

    Raises:
        UserError: its template is gone, or broken.
    """
    data = {key: config[f"data.{key}"] for key in _FORM} | changes
    arguments = {} if "template" in changes else jinja.parse_arguments(data["template_args"])
    return encode.Form(
        template=jinja.load(data["template"], folder, tokenizer.special_tokens, arguments),
        thoughts=data["empty_thoughts"],
        answers=encode.LAST if data["answers"] == encode.EACH else data["answers"],
        truncation=data["truncation"],
        max_answer=data["max_answer"],
        join=data["join_tokens"],
    )
