"""The settings of the evaluate command, and those that nothing could serve."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from zsg_jax.config import default_config
from zsg_jax.data.formats.natural_instructions.options import Options, from_text
from zsg_jax.evaluation.metrics import METRICS
from zsg_jax.evaluation.scores import METRICS as SCORES
from zsg_jax.runtime.errors import check, did_you_mean
from zsg_jax.runtime.settings import flag

BASELINES = ("copy_input", "copy_demonstration")


@dataclass(frozen=True)
class EvaluateOptions:
    """One evaluation; `python -m zsg_jax.evaluate --help` says what each field means.

    Those after `mesh` are keys of a config; None: those of the study, or the default.
    """

    output: Path
    checkpoint: tuple[str, ...] | None = None
    model: str = ""
    adapters: str = ""
    predictions: str = ""
    baseline: str = ""
    mesh: tuple[int, int, int] = (-1, 1, 1)
    test: str | None = None
    metrics: str | None = None
    decoding: str | None = None
    stops: tuple[str, ...] | None = None
    rouge_tokenizer: str | None = None
    reward_model: str | None = None
    reward_template: str | None = None
    reward_dtype: str | None = None
    batch_size: int | None = None
    max_length: int | None = None
    tokenizer: str | None = None
    dtype: str | None = None
    template: str | None = None
    template_args: str | None = None
    answers: str | None = None
    truncation: str | None = None
    data_format: str | None = None
    data_fields: str | None = None
    natural_instructions: str | None = None
    bad_rows: str | None = None


# Of EvaluateOptions, the key of a config that each sets.
KEYS = {
    **{name: f"evaluation.{name}" for name in ("metrics", "batch_size", "max_length")},
    **{
        name: f"evaluation.texts.{name}"
        for name in (
            *("decoding", "stops", "rouge_tokenizer"),
            *("reward_model", "reward_template", "reward_dtype"),
        )
    },
    **{
        name: f"data.{name}"
        for name in ("test", "template", "template_args", "answers", "truncation", "bad_rows")
    },
    "data_format": "data.format",
    "data_fields": "data.fields",
    "tokenizer": "tokenizer",
    "dtype": "model.dtype",
}
_MESH = {f"mesh.{axis}": f"--mesh {axis}" for axis in ("data", "fsdp", "tensor")}
# What says how test rows are read and cut, which a study has said of its own.
OF_TESTS = (
    *("max_length", "template", "template_args", "answers", "truncation"),
    *("data_format", "data_fields", "bad_rows"),
)


def flags(options: EvaluateOptions) -> dict[str, str]:
    """How messages name the keys of a config: by the flags that say the same in this call."""
    found = {key: flag(name) for name, key in KEYS.items()}
    found |= {"data.natural_instructions": "--natural-instructions", **_MESH}
    if options.model:
        return found | {"model.init_from": "--model", "data.max_length": "--max-length"}
    unset: tuple[str, ...] = ("tokenizer", "dtype")
    if options.checkpoint:
        found["workdir"] = "--checkpoint"
        unset += () if options.test else ("test", "natural_instructions", *OF_TESTS)
    return {key: one for key, one in found.items() if one not in map(flag, unset)}


def check_options(options: EvaluateOptions) -> None:
    """Refuses flags that do not go together, before any file is read.

    Raises:
        UserError: naming the flags, and what would do.
    """
    subjects = ("checkpoint", "model", "predictions", "baseline")
    given = [flag(name) for name in subjects if getattr(options, name)]
    check(
        len(given) == 1,
        f"{' and '.join(given) or 'nothing to evaluate'}: give one of "
        f"{', '.join(map(flag, subjects))}",
    )
    check(
        bool(options.checkpoint or options.test),
        f"{given[0]}: measured on what? give --test FILE",
    )
    check(not options.adapters or bool(options.model), "--adapters are of --model; give it too")
    check(
        options.baseline in ("", *BASELINES),
        f"--baseline {options.baseline}: choose one of {', '.join(BASELINES)}"
        + did_you_mean(options.baseline, BASELINES),
    )
    for name in ("tokenizer", "dtype"):
        check(
            getattr(options, name) is None or bool(options.model),
            f"{flag(name)} is of --model; leave it out",
        )
    for name in ("decoding", "stops"):
        check(
            getattr(options, name) is None or bool(options.model or options.checkpoint),
            f"{flag(name)}: {given[0]} has its texts, and none is generated; leave it out",
        )
    for name in (*OF_TESTS, "natural_instructions"):
        check(
            getattr(options, name) is None or options.test is not None,
            f"{flag(name)}: the test rows of a study are read as it read them; give --test, or "
            "leave it out",
        )
    _check_metrics(options)


def _check_metrics(options: EvaluateOptions) -> None:
    known = METRICS if options.checkpoint or options.model else (*SCORES, "reward")
    for name in _names(options.metrics or ""):
        check(
            name in known,
            f"--metrics {name}: choose of {', '.join(known)}{did_you_mean(name, known)}",
        )


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def configured(options: EvaluateOptions, study: ConfigDict | None = None) -> ConfigDict:
    """A config with what the options set; of a study's where one is evaluated.

    Raises:
        UserError: a value that no config may have.
    """
    config = default_config() if study is None else study.copy_and_resolve_references()
    changes: dict[str, Any] = {
        KEYS[one.name]: getattr(options, one.name)
        for one in fields(options)
        if one.name in KEYS and getattr(options, one.name) is not None
    }
    if options.metrics is not None:
        changes["evaluation.metrics"] = _names(options.metrics)
    if options.model:
        changes["model.init_from"] = options.model
        changes.setdefault("tokenizer", options.model)
        changes["seeds"] = (0,)
    config.update_from_flattened_dict(changes)
    if options.reward_model is None and "reward" not in config.evaluation.metrics:
        config.evaluation.texts.reward_model = ""  # the study's, which is not asked for
    if options.natural_instructions is not None:
        parsed = from_text(options.natural_instructions, Options())
        for name in config.data.natural_instructions:
            config.data.natural_instructions[name] = getattr(parsed, name)
    _check_config(config, options.test)
    return config


def _check_config(config: ConfigDict, test: str | None) -> None:
    # Imported here: the command's --help needs the options alone.
    from zsg_jax.data.sources import REWRITES, refuse_rewrites
    from zsg_jax.workflows.validate import validate

    refuse_rewrites("test", test)
    tried = config.copy_and_resolve_references()
    # What a study has besides.
    tried.evaluation.metrics = ("loss", *config.evaluation.metrics)
    if config.data.test != REWRITES:
        tried.data.train = config.data.test
    validate(tried)
