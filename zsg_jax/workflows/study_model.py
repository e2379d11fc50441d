"""A study's model: where its first weights come from, and the model on its mesh."""

import ast
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.config import default_config
from zsg_jax.data.tokenize.tokenizer import Tokenizer, from_folder
from zsg_jax.evaluation import decoding
from zsg_jax.evaluation.metrics import need_texts
from zsg_jax.models import attention, huggingface
from zsg_jax.models.families import FAMILIES, ModelConfig, is_file
from zsg_jax.models.lora import LoRA
from zsg_jax.models.model import abstract
from zsg_jax.models.placement import Compute
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import read_json
from zsg_jax.runtime.progress import say
from zsg_jax.runtime.settings import setting
from zsg_jax.training.trainer import Trainer, TrainerOptions
from zsg_jax.workdir import claims, decoders, growing, hub, layout, trained

# Texts that different tokenizers read differently.
_PROBES = ("The quick brown fox, at 12:30, didn't jump.", "User: naïve café\nAssistant:  42 {x}")
_WHERE = "give a Hugging Face folder, a run as WORKDIR/runs/NAME-seedK, or hub:OWNER/NAME"


class Origin(NamedTuple):
    """Where a study begins.

    Attributes:
        model: the model's shape, without padding.
        weights: a Hugging Face folder or the folder of a checkpoint; None: random weights.
        ends: the tokens that end a text by the generation_config.json that it, or the study that
            it goes on from, began with.
    """

    model: ModelConfig
    weights: Path | None
    ends: tuple[int, ...] = ()


def find_origin(
    config: ConfigDict,
    tokenizer: Tokenizer,
    workdir: Path | None = None,
    start: Path | None = None,
) -> Origin:
    """Where the study that the config names begins.

    Args:
        workdir: the study's own, which knows the commits of names of the hub, and the positions
            that were trained.
        start: the workdir whose pretrained weights it begins with; None: its own.

    Raises:
        UserError: the folder or run is none, or has changed, or does not fit the other settings; or
            what is to be measured asks for more positions than were trained.
    """
    given = config.model.init_from
    folder = hub.folder(given, workdir)
    run = trained.run_of(folder) if given else None
    if run is not None:
        origin = _of_run(config, tokenizer, run)
        known = (read_json(workdir / layout.DATA) or {}) if workdir else {}
        if claims.TEXT_ENDS in known and claims.ENDS not in known:
            # Earlier versions took none from what a run began with; the study goes on so.
            return origin._replace(ends=ast.literal_eval(known[claims.TEXT_ENDS]))
        return origin
    if given:
        decoders.refuse_other_folders(
            setting("model.init_from", repr(given)), given, Path(folder), _WHERE
        )
        if hub.folder(config.tokenizer, workdir) != folder:
            _refuse_other_tokenizer(config, tokenizer, Path(folder))
    model = huggingface.find_config(
        config.model.family,
        config.model.size,
        folder,
        vocab_size=tokenizer.vocab_size,
        max_positions=_positions(config),
    )
    if not given:
        model = _as_trained(config, model, [one for one in (workdir, start) if one is not None])
    weights = Path(folder) if given else None
    return Origin(model, weights, huggingface.eos_ids(weights))


def _of_run(config: ConfigDict, tokenizer: Tokenizer, run: trained.TrainedRun) -> Origin:
    given = config.model.init_from
    study = trained.read_study(
        run.workdir, f"{setting('model.init_from', repr(given))} lies in no workdir; {_WHERE}"
    )
    name = study.tokenizer_name
    if tokenizer.fingerprint != study.tokenizer.fingerprint:
        used = run.workdir / layout.TOKENIZER if name == "train" else study.config["tokenizer"]
        raise UserError(
            f"{setting('tokenizer', repr(config.tokenizer))} is not the one that {given} was "
            f"trained with; pass {setting('tokenizer', used)}"
        )
    model, family, size = study.model, config.model.family, config.model.size
    check(
        family in ("", model.family),
        f"{setting('model.family', family)} but {given} is a {model.family}; leave it out",
    )
    # The default is not told from the same name given.
    if size != default_config().model.size:
        check(
            _like(size, model),
            f"{setting('model.size', size)} is not the shape of {given}; leave it out",
        )
    found = trained.checkpoints(run, f"{setting('model.init_from', given)}: run").whole(run.step)
    return Origin(model, found, study.ends)


def _like(size: str, model: ModelConfig) -> bool:
    """Whether a size is the shape of `model`, the vocabulary and positions aside if it is named."""
    if is_file(size):
        return huggingface.read_config(size) == model
    family = FAMILIES[model.family]
    known = size in family.sizes
    return known and family.sized(size, model.vocab_size, model.max_positions) == model


def _refuse_other_tokenizer(config: ConfigDict, tokenizer: Tokenizer, folder: Path) -> None:
    """Refuses a tokenizer that reads a text otherwise than the one beside the weights does."""
    if not (folder / "tokenizer.json").exists():
        return
    try:
        own = from_folder(str(folder))
    except UserError:
        # A tokenizer that is not read here cannot be compared.
        return
    given, own_ids = ([one.ids for one in each.encode(_PROBES)] for each in (tokenizer, own))
    same = all(np.array_equal(a, b) for a, b in zip(given, own_ids, strict=True))
    check(
        same,
        f"{setting('tokenizer', repr(config.tokenizer))} makes other tokens of a text than the "
        f"tokenizer of {setting('model.init_from')}, for which its weights mean nothing; pass "
        f"{setting('tokenizer', config.model.init_from)}",
    )


def _longest(config: ConfigDict) -> int:
    return max(config.data.max_length, config.evaluation.max_length)


def _positions(config: ConfigDict) -> int:
    """The positions that a new model has, for an example, or a prompt and the text after it."""
    tests = config.evaluation.max_length
    if need_texts(config.evaluation.metrics):
        tests += decoding.parse(config.evaluation.texts.decoding).max_new_tokens
    return max(config.data.max_length, tests)


def _as_trained(config: ConfigDict, model: ModelConfig, workdirs: Iterable[Path]) -> ModelConfig:
    """The model with as many positions as its runs have, where these are learned, as GPT-2's are.

    Metrics that are added later may ask for more of them, which no run has trained.
    """
    for workdir in workdirs:
        begun = any((workdir / part).exists() for part in growing.TRAINED)
        if not begun or not (workdir / layout.MODEL).exists():
            continue
        known = replace(
            model, max_positions=huggingface.read_config(workdir / layout.MODEL).max_positions
        )
        if abstract(known)[1] == abstract(model)[1]:
            continue
        limit, texts = config.evaluation.max_length, config.evaluation.texts.decoding
        room = known.max_positions - limit
        fewer = f"max_new_tokens={room} there, or " if room > 0 else ""
        check(
            known.max_positions > model.max_positions,
            f"{setting('workdir')} {workdir}: its model has learned {known.max_positions} "
            f"positions; {setting('evaluation.max_length', limit)} and "
            f"{setting('evaluation.texts.decoding', texts)} ask for {model.max_positions}: give "
            f"{fewer}another {setting('workdir')}",
        )
        model = known
    return model


def make_trainer(
    config: ConfigDict,
    tokenizer: Tokenizer,
    mesh: Mesh,
    origin: Origin | None = None,
    *,
    tell: Callable[[str], None] = say,
) -> Trainer:
    """The model that the config names, for this tokenizer, with its shapes and shardings.

    Args:
        origin: what `find_origin` gives, if it is known.
        tell: takes a line about the model, its attention or its precision.

    Raises:
        UserError: a folder or size that does not fit the tokenizer or the lengths.
    """
    model, weights, _ = origin or find_origin(config, tokenizer)
    if weights or is_file(config.model.size):
        _refuse_too_small(config, tokenizer, model)
    training = config.training
    options = TrainerOptions(**{name: training[name] for name in TrainerOptions._fields})
    if not options.micro_batch_size:
        options = options._replace(micro_batch_size=options.batch_size)
    trainer = Trainer(
        model,
        options,
        mesh,
        compute=make_compute(config, model, mesh, tell),
        param_dtype=config.model.param_dtype,
        lora=make_lora(config),
        init_from=weights,
    )
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    tell(
        f"model: {model.family}, {trainer.parameters:,} parameters{_trained(trainer)}; mesh "
        f"{axes} on {mesh.devices.flat[0].platform}"
    )
    if config.model.param_dtype != "float32":
        tell(
            f"{setting('model.param_dtype', config.model.param_dtype)}: the weights keep 8 bits "
            "of precision, so an update under a 256th of a weight is lost; float32 keeps it"
        )
    return trainer


def _refuse_too_small(config: ConfigDict, tokenizer: Tokenizer, model: ModelConfig) -> None:
    """Refuses a model of a folder or file that has too few words or positions."""
    shape = config.model.init_from or config.model.size
    if model.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"{setting('tokenizer', repr(config.tokenizer))} has {tokenizer.vocab_size} entries, "
            f"the model in {shape} only {model.vocab_size}; use the model's own folder"
        )
    if model.max_positions < _longest(config):
        lengths = {
            "data.max_length": config.data.max_length,
            "evaluation.max_length": config.evaluation.max_length,
        }
        told = dict.fromkeys(setting(*one) for one in lengths.items())
        raise UserError(
            f"{' and '.join(told)} must not pass the {model.max_positions} positions of the "
            f"model in {shape}"
        )


def make_compute(
    config: ConfigDict, model: ModelConfig, mesh: Mesh, tell: Callable[[str], None] = say
) -> Compute:
    """How the model is computed on this mesh; tells which attention was picked, and why."""
    dtype, given = jnp.dtype(config.model.dtype), config.model.attention
    platform = mesh.devices.flat[0].platform
    longest = _longest(config)
    chosen, why = attention.choose(
        platform,
        head_dim=model.head_dim,
        length=longest,
        dtype=dtype,
        softcap=model.attention_softcap,
        sinks=model.sinks,
    )
    if given not in (attention.AUTO, chosen, "xla"):
        raise UserError(f"{setting('model.attention', given)}: {why}; leave it out, or give xla")
    if given == "xla" != chosen:
        chosen, why = "xla", f"{setting('model.attention')} asks for it"
    tell(f"attention: {chosen}, since {why}")
    return Compute(dtype, config.model.remat, chosen)


def make_lora(config: ConfigDict) -> LoRA | None:
    """The adapters that the config asks for; None: all weights are trained."""
    lora = config.model.lora
    return LoRA(**lora.to_dict()) if lora.rank else None


def _trained(trainer: Trainer) -> str:
    adapted = trainer.trained != trainer.parameters
    return f", adapters of {trainer.trained:,} beside them" if adapted else ""


def model_name(config: ConfigDict, trainer: Trainer) -> str:
    """Family, parameters and origin, for the page."""
    begun = "from random weights"
    if steps := config.model.pretraining.steps:
        begun = f"pretrained here for {steps:,} steps on general strings"
    origin = config.model.init_from or f"{config.model.size}, {begun}"
    parameters = f"{trainer.parameters:,} parameters{_trained(trainer)}"
    return f"{trainer.model.family}, {parameters} ({origin})"
