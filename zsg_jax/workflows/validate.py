"""What the values of a config must be, checked before anything is done with them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from zsg_jax.arrangement.epochs import check_rules, read_anew
from zsg_jax.arrangement.methods import parse
from zsg_jax.config import default_config, flatten
from zsg_jax.data.formats.fields import parse_fields
from zsg_jax.data.formats.natural_instructions.options import PROMPT_SCHEMAS, REFERENCES
from zsg_jax.data.schemas.registry import AUTO, BAD_ROWS, SCHEMAS
from zsg_jax.data.sources import REWRITES
from zsg_jax.data.splits import check_split
from zsg_jax.data.tokenize.encode import ANSWERS, THOUGHTS
from zsg_jax.data.tokenize.jinja import CHAT, STUDY, parse_arguments
from zsg_jax.data.tokenize.truncation import TRUNCATIONS
from zsg_jax.data.views import choose_view
from zsg_jax.evaluation.decoding import parse as parse_decoding
from zsg_jax.evaluation.metrics import METRICS
from zsg_jax.models.attention import AUTO as AUTO_ATTENTION
from zsg_jax.models.attention import KERNELS
from zsg_jax.models.dtypes import COMPUTED
from zsg_jax.models.families import DEFAULT, FAMILIES, is_file
from zsg_jax.models.placement import REMAT
from zsg_jax.runtime.errors import UserError, check, did_you_mean
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.encoders.address import read_encoder
from zsg_jax.similarity.names import DISTANCES, DTYPES, check_cosine
from zsg_jax.similarity.trajectory import check_measures
from zsg_jax.training.loggers import check_loggers
from zsg_jax.training.optimizer import SCHEDULES

_CHOICES: dict[str, tuple[str, ...]] = {
    "data.bad_rows": BAD_ROWS,
    "data.format": (AUTO, *SCHEMAS),
    "data.natural_instructions.schema": PROMPT_SCHEMAS,
    "data.natural_instructions.reference": REFERENCES,
    "data.answers": ANSWERS,
    "data.empty_thoughts": THOUGHTS,
    "data.truncation": TRUNCATIONS,
    "similarity.dtype": DTYPES,
    "similarity.distance": DISTANCES,
    "model.dtype": COMPUTED,
    "evaluation.texts.reward_dtype": COMPUTED,
    "model.param_dtype": COMPUTED,
    "model.remat": tuple(REMAT),
    "model.attention": (AUTO_ATTENTION, *KERNELS),
    "training.schedule": SCHEDULES,
}
_AT_LEAST: dict[str, float] = {
    "tokenizer_size": 258,
    "data.max_length": 2,
    "data.max_answer": 1,
    "data.max_row_bytes": 1,
    "data.report_fraction": 0,
    "data.train_per_task": 1,
    "data.test_per_task": 1,
    "data.seed": 0,
    "data.workers": 0,
    "data.natural_instructions.positive_examples": 0,
    "data.natural_instructions.negative_examples": 0,
    "data.natural_instructions.max_source": 0,
    "data.natural_instructions.train_per_task": 0,
    "data.natural_instructions.test_per_task": 0,
    "data.rewrites.seed": 0,
    "similarity.block_rows": 1,
    "arrangement.budget": 1,
    "arrangement.seed": 0,
    "model.pretraining.steps": 0,
    "model.pretraining.batch_size": 1,
    "model.pretraining.learning_rate": 0,
    "model.pretraining.seed": 0,
    "model.lora.rank": 0,
    "training.batch_size": 1,
    "training.micro_batch_size": 1,
    "training.steps": 1,
    "training.learning_rate": 0,
    "training.clip_norm": 0,
    "training.warmup_steps": 0,
    "training.weight_decay": 0,
    "training.checkpoint_every": 1,
    "evaluation.every": 1,
    "evaluation.scores_every": 1,
    "report.window": 1,
    "evaluation.batch_size": 1,
    "evaluation.max_length": 2,
}
_QUOTED = "'(0,)'"  # a single seed, as a shell takes it
# Tuples of words whose default is empty.
_NAMES = ("evaluation.texts.stops",)


def validate(config: ConfigDict, *, runs: Sequence[tuple[str, int]] | None = None) -> None:
    """Refuses what no stage could use: unknown or missing keys, wrong types, values out of range.

    Args:
        runs: (arrangement, seed) of those that are trained; None: each arrangement by each seed.

    Raises:
        UserError: naming the key, its value and what would do.
    """
    given, start = flatten(config), default_config()
    known = flatten(start)
    check_keys(given, known, start)
    check_values(given, _CHOICES | _model_choices(given), _AT_LEAST)
    _check_runs(given, known, runs)
    _check_data(given)
    _check_metrics(given)
    _check_methods(given["arrangement.methods"])
    check_measures(given["similarity.trajectory"])
    check(
        given["arrangement.w_min"] != 0 or given["arrangement.w_avg"] != 0,
        f"{setting('arrangement.w_min')} and w_avg are both 0, which makes all rows equally far; "
        "set one",
    )
    check_rules(given["training.epochs"], given["training.steps"])
    check_cosine(_told(given, "arrangement.drop_leaks"), given["arrangement.drop_leaks"])
    _check_anew(given)
    check_loggers(given["logging"])
    _check_profile(given["training.profile_steps"], given["training.steps"])


def _check_anew(given: dict[str, Any]) -> None:
    """What goes with runs whose pool is arranged anew."""
    twins = given["arrangement.deduplicate"]
    told = setting("arrangement.deduplicate", twins)
    check_cosine(told, twins)
    if not read_anew(given["training.epochs"]).steps:
        return
    check(
        twins is None,
        f"{told} is of one space, but training.epochs arranges anew by others; leave one of them "
        "out",
    )
    for name in given["arrangement.methods"]:
        check(
            not parse(name, 0)[0].counted,
            f"{setting('arrangement.methods')}: {name!r} counts tasks or the rows of each, but "
            f"{_told(given, 'training.epochs')} chooses anew of what is left, which would give "
            "others beside them; give another method, or other epochs",
        )


def _told(given: dict[str, Any], key: str) -> str:
    return setting(key, repr(given[key]))


def check_keys(given: dict[str, Any], known: dict[str, Any], start: ConfigDict) -> None:
    """All keys that are read, no others, each of its type."""
    for key in given:
        if key not in known:
            raise UserError(f"{setting(key)} is a key that nothing reads{did_you_mean(key, known)}")
    for key, default in known.items():
        check(key in given, f"{setting(key)} is missing; start from the defaults of its study")
        _check_type(key, given[key], default, _held_type(start, key))


def check_values(
    given: dict[str, Any], choices: Mapping[str, Sequence[str]], at_least: Mapping[str, float]
) -> None:
    """What is one of several words, and numbers that have a least one."""
    for key, known in choices.items():
        check(
            given[key] in known,
            f"{_told(given, key)} is unknown; choose one of {', '.join(known)}"
            + did_you_mean(str(given[key]), known),
        )
    for key, least in at_least.items():
        value = given[key]
        check(value is None or value >= least, f"{setting(key, value)} must be at least {least:g}")


def _check_runs(
    given: dict[str, Any], known: dict[str, Any], runs: Sequence[tuple[str, int]] | None
) -> None:
    """What is trained, and how often."""
    seeds = given["seeds"]
    names = given["arrangement.methods"] * len(seeds) if runs is None else [one for one, _ in runs]
    check(
        bool(seeds) and len(set(seeds)) == len(seeds) and all(0 <= seed < 2**32 for seed in seeds),
        f"{setting('seeds', tuple(seeds))} must be different whole numbers from 0, at least one; a "
        f"single one is written {setting('seeds', _QUOTED)}",
    )
    check(
        not given["model.init_from"] or given["model.lora.rank"] or len(set(names)) == len(names),
        f"{setting('seeds', tuple(seeds))} would train the same run {len(seeds)} times, since the "
        f"weights come from {setting('model.init_from')}; pass {setting('seeds', _QUOTED)}",
    )
    for key in ("alpha", "targets", "dropout", "base"):
        name = f"model.lora.{key}"
        check(
            bool(given["model.lora.rank"]) or given[name] == known[name],
            f"{_told(given, name)} is of adapters; give model.lora.rank too",
        )


def _check_data(given: dict[str, Any]) -> None:
    """Where examples come from, and the form they are cast in."""
    for key in ("data.train", "data.test", "data.template", "tokenizer", "similarity.encoder"):
        check(bool(given[key]), f"{setting(key)} is empty; give a path or a name")
    read_encoder(given["similarity.encoder"])
    choose_view(given["similarity.text"])
    check(
        given["similarity.cache"] != "",
        f"{setting('similarity.cache')} is empty; give a folder, or leave it out",
    )
    check(
        given["data.template"] != CHAT or given["tokenizer"] not in ("bytes", "train"),
        f"{_told(given, 'data.template')} takes the template of a tokenizer's folder, but "
        f"{_told(given, 'tokenizer')} has none; give a folder, or a Jinja file as template",
    )
    check(
        given["data.template"] == STUDY or not given["data.join_tokens"],
        f"{setting('data.join_tokens')} is of the study's form, but "
        f"{_told(given, 'data.template')}; leave it out",
    )
    check(
        given["data.template"] != STUDY or not given["data.template_args"],
        f"{_told(given, 'data.template_args')} is of chat templates, but "
        f"{_told(given, 'data.template')}; leave it out",
    )
    parse_arguments(given["data.template_args"])
    made = [given[f"data.{side}"] == REWRITES for side in ("train", "test")]
    check(
        made[0] == made[1],
        f"{_told(given, 'data.train')} but "
        f"{_told(given, 'data.test')}: give both files, or neither",
    )
    check(
        given["data.report_fraction"] < 1,
        f"{_told(given, 'data.report_fraction')} leaves nothing to arrange toward; give less "
        "than 1",
    )
    check_split(given["data.split"])
    parse_fields(given["data.fields"])
    for key in ("data.split", "data.train_per_task", "data.test_per_task"):
        check(
            not given[key] or not made[0],
            f"{_told(given, key)} is for files; data.rewrites says which rewrites are made",
        )


def _check_metrics(given: dict[str, Any]) -> None:
    """What is measured, and how texts are generated."""
    metrics = given["evaluation.metrics"]
    for name in metrics:
        check(
            name in METRICS,
            f"{setting('evaluation.metrics')}: {name!r} is unknown; choose of {', '.join(METRICS)}"
            + did_you_mean(name, METRICS),
        )
    check(
        "loss" in metrics,
        f"{setting('evaluation.metrics', tuple(metrics))} lacks the loss, by which the report "
        "compares; add 'loss'",
    )
    parse_decoding(given["evaluation.texts.decoding"])
    check(
        ("reward" in metrics) == bool(given["evaluation.texts.reward_model"]),
        f"{_told(given, 'evaluation.texts.reward_model')} and "
        "the metric 'reward' go together; give both, or neither",
    )


def _model_choices(given: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """The families, if one is given, and the sizes of it, unless a file or a folder tells."""
    choices: dict[str, tuple[str, ...]] = {}
    family = given["model.family"]
    if family:
        choices["model.family"] = tuple(FAMILIES)
    if not given["model.init_from"] and not is_file(given["model.size"]):
        known = FAMILIES.get(family or DEFAULT)
        choices |= {"model.size": tuple(known.sizes)} if known else {}
    return choices


def _held_type(config: ConfigDict, key: str) -> type:
    """The type that ml_collections holds a key to, which a placeholder's value does not show."""
    *folders, name = key.split(".")
    for folder in folders:
        config = config[folder]
    return config.get_type(name)


def _check_methods(names: list[str]) -> None:
    for name in names:
        if "," in name:
            several = ", ".join(f"'{part.strip()}'" for part in name.split(","))
            example = setting("arrangement.methods", f'"({several})"')
            raise UserError(
                f"{setting('arrangement.methods')}: several names are written as a tuple, in "
                f"quotes for the shell: {example}"
            )
        try:
            parse(name, 0)
        except UserError as error:
            raise UserError(f"{setting('arrangement.methods')}: {error}") from None
    check(
        bool(names) and len(set(names)) == len(names),
        f"{setting('arrangement.methods', tuple(names))} must be different names, at least one",
    )


def _check_profile(steps: list[int], total: int | None) -> None:
    check(
        not steps
        or (len(steps) == 2 and 1 <= steps[0] <= steps[1] and (total is None or steps[1] <= total)),
        f"{setting('training.profile_steps', tuple(steps))} must be the first and the last step to "
        f"trace, whole numbers from 1 to {'the last step' if total is None else total}, as in "
        + setting("training.profile_steps", "'(10, 13)'"),
    )


def _check_type(key: str, value: Any, default: Any, held: type) -> None:
    if default is None and held is int:
        ok, kind = value is None or type(value) is int, "a whole number or None"
    elif default is None and held is str:
        ok, kind = value is None or type(value) is str, "a text or None"
    elif default is None:
        ok, kind = value is None or _is_number(value), "a number or None"
    elif isinstance(default, list):
        item_type = type(default[0]) if default else str if key in _NAMES else int
        kind = f"a tuple of {_ITEMS[item_type]}"
        right = _is_number if item_type is float else lambda item: type(item) is item_type
        ok = isinstance(value, list) and all(map(right, value))
    elif isinstance(default, float):
        ok, kind = _is_number(value), "a number"
    else:
        ok, kind = type(value) is type(default), f"of type {type(default).__name__}"
    check(ok, f"{setting(key, repr(value))} must be {kind}")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{setting(key, ascii(value))} is not UTF-8; rename what it names"
        ) from None


_ITEMS = {str: "names", int: "whole numbers", float: "numbers", bool: "True or False"}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
