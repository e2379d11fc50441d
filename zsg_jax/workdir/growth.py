"""What of a config may be another, or more, on a workdir in which something was made."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Where the state lies, who lays the batches, which steps are traced, who is told and what the page
# is called change no experiment; nor does a grid change the cells that it has had.
MAY_CHANGE = (
    *("mesh.", "data.workers", "data.max_row_bytes", "training.profile_steps", "report.", "grid."),
    *("logging", "similarity.cache"),
)
# What is measured; of earlier steps, on the checkpoints that are kept.
METRICS = "evaluation.metrics"
# To these a study may be given more: what it has had stays as it is.
_MAY_GROW = ("arrangement.methods", "seeds", METRICS)
# And more steps, where the learning rate does not depend on how many there will be.
_STEPS, _SCHEDULE = "training.steps", "training.schedule"
# What was done where a workdir is older than a key.
_BEFORE = {"training.epochs": ["ordered"]}
# How something is measured may be said when it is asked for first: which metrics a key is read for.
_READ_FOR: dict[str, Callable[[str], bool]] = {
    "evaluation.scores_every": lambda metric: metric != "loss",
    "evaluation.texts.decoding": lambda metric: metric not in ("loss", "choices"),
    "evaluation.texts.stops": lambda metric: metric not in ("loss", "choices"),
    "evaluation.texts.rouge_tokenizer": lambda metric: metric == "rouge",
    "evaluation.texts.reward_model": lambda metric: metric == "reward",
    "evaluation.texts.reward_template": lambda metric: metric == "reward",
    "evaluation.texts.reward_dtype": lambda metric: metric == "reward",
}
# On these no run hangs: which others there are, and how often and in which batches it is measured.
_NOT_OF_A_RUN = (
    *("seeds", "arrangement.methods"),
    *("evaluation.every", "evaluation.scores_every", "evaluation.batch_size"),
)
# Folders, of which a run hangs on what they hold, if any: that is told by digests.
_BY_DIGEST = ("evaluation.texts.reward_model", "evaluation.texts.rouge_tokenizer")


def agree(key: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether what was made with one flat config stays as it is with another value of a key."""
    old, new = known.get(key, _BEFORE.get(key)), given.get(key)
    if key in _MAY_GROW and isinstance(old, list | tuple):
        return set(old) <= set(new or ())
    if key == _STEPS and _more_steps(old, new):
        return known.get(_SCHEDULE) == given.get(_SCHEDULE) == "constant"
    if not is_read(key, known.get(METRICS) or ()):
        return True
    return old == new or key.startswith(MAY_CHANGE)


def is_read(key: str, metrics: Iterable[str]) -> bool:
    """Whether a key says how one of these metrics is measured, or is of the whole study."""
    return key not in _READ_FOR or any(map(_READ_FOR[key], metrics))


def of_a_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a flat config one run hangs on."""
    free = (*_NOT_OF_A_RUN, *MAY_CHANGE)
    return {key: value for key, value in config.items() if not key.startswith(free)}


def agree_on_a_run(key: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """`agree`, of what a run was made with, whose folders may lie elsewhere by now."""
    if key in _BY_DIGEST and bool(known.get(key)) == bool(given.get(key)):
        return True
    return agree(key, known, given)


def why(known: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Why more steps, or fewer metrics, are another study, where they are."""
    if not set(known.get(METRICS) or ()) <= set(given.get(METRICS) or ()):
        return ": what was measured stays; metrics may be added, so name the old ones too"
    if not _more_steps(known.get(_STEPS), given.get(_STEPS)) or agree(_STEPS, known, given):
        return ""
    return (
        f": more steps would change the learning rate of those that were taken; under "
        f"{_SCHEDULE}='constant' alone they may be added"
    )


def _more_steps(old: int | None, new: int | None) -> bool:
    """Whether a run of `old` steps is the beginning of one of `new`; None: of a whole epoch."""
    return old is not None and (new is None or new > old)
