"""What an encoder is named by, read before anything is computed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from zsg_jax.data.tokenize.truncation import TRUNCATIONS
from zsg_jax.runtime.addresses import pairs
from zsg_jax.runtime.errors import check, did_you_mean

STATES, GRADIENTS = "states:", "gradients:"
# By their names among the poolings of sentence encoders (`folder.POOLINGS`).
POOLINGS: Mapping[str, str] = {"weighted": "weightedmean", "mean": "mean", "last": "lasttoken"}
ALL, ANSWERS = TOKENS = ("all", "answers")
ADAM, PLAIN = DIRECTIONS = ("adam", "plain")
_CHOICES = {
    "pooling": tuple(POOLINGS),
    "tokens": TOKENS,
    "truncation": TRUNCATIONS,
    "train": DIRECTIONS,
}
# The whole numbers, with the least that they may be.
_NUMBERS = {"layer": 1, "length": 1, "dimension": 1, "seed": 0}


class States(NamedTuple):
    """The hidden states of a decoder as an encoder, as "states:FOLDER,layer=3,pooling=mean" says.

    Attributes:
        model: a Hugging Face folder, hub:OWNER/NAME[@REVISION], or a run as
            WORKDIR/runs/NAME-seedK[@STEP].
        layer: after how many layers the states are taken, from 1; None: all, and the last norm.
        pooling: a key of `POOLINGS`: token i of n weighs i (RDS+, arXiv 2503.01807, after SGPT,
            arXiv 2202.08904), all the same, or the last alone.
        tokens: of `TOKENS`, those that are pooled: all, or those that carry loss in training.
        template: how examples become text, as `data.template` takes it; "": of a run as it was
            trained, of others the study's form.
        truncation: what a longer example loses, of `TRUNCATIONS`; "": of a run as it was trained,
            of others "tail".
        length: tokens at most, and no more than the model's positions.
    """

    model: str
    layer: int | None = None
    pooling: str = "weighted"
    tokens: str = ALL
    template: str = ""
    truncation: str = ""
    length: int = 2048


class Gradients(NamedTuple):
    """The gradients of a decoder's loss as an encoder, as "gradients:RUN@20,40,seed=1" says.

    Attributes:
        model: a Hugging Face folder, hub:OWNER/NAME[@REVISION], or a run as
            WORKDIR/runs/NAME-seedK[@STEP].
        steps: of more of the run's checkpoints; none, and no STEP: all that are kept.
        dimension: D, that gradients are projected to; as LESS (arXiv 2402.04333) has it.
        seed: of the signs that project them.
        weights: which parameters they are taken by, a pattern of their names as in
            "layers/*/q/lora_a"; "": all adapters, or where there are none, all layers' kernels.
        train: what a training example's gradient becomes, of `DIRECTIONS`: the direction of Adam's
            next step, or itself; "": the first where the optimizer's state is kept.
        template, truncation, length: as `States` has them.
    """

    model: str
    steps: tuple[int, ...] = ()
    dimension: int = 8192
    seed: int = 0
    weights: str = ""
    train: str = ""
    template: str = ""
    truncation: str = ""
    length: int = 2048


def is_states(name: str) -> bool:
    """Whether an encoder is the hidden states of a decoder."""
    return name.startswith(STATES)


def is_gradients(name: str) -> bool:
    """Whether an encoder is the gradients of a decoder's loss."""
    return name.startswith(GRADIENTS)


def read_states(name: str) -> States:
    """What "states:…" says.

    Raises:
        UserError: a key that there is not or that comes twice, a wrong value, or no model.
    """
    model, *parts = name.removeprefix(STATES).split(",")
    usage = "write states:FOLDER, states:RUN[@STEP] or states:hub:OWNER/NAME, then ,KEY=VALUE"
    check(bool(model), f"{name}: names no model; {usage}")
    return States(model, **_settings(name, parts, States._fields[1:]))


def read_gradients(name: str) -> Gradients:
    """What "gradients:…" says.

    Raises:
        UserError: as `read_states`; or a step that comes twice.
    """
    model, *parts = name.removeprefix(GRADIENTS).split(",")
    usage = "write gradients:RUN[@STEP,STEP,…] or gradients:FOLDER, then ,KEY=VALUE"
    check(bool(model), f"{name}: names no model; {usage}")
    count = next((i for i, part in enumerate(parts) if not _is_whole(part)), len(parts))
    steps = tuple(map(int, parts[:count]))
    first = model.rpartition("@")[2] if "@" in model else ""
    if steps:
        check(_is_whole(first), f"{name}: {steps[0]} stands behind no RUN@STEP; {usage}")
        check(len({int(first), *steps}) == 1 + len(steps), f"{name}: names a step twice")
    return Gradients(model, steps, **_settings(name, parts[count:], Gradients._fields[2:]))


def read_encoder(name: str) -> States | Gradients | None:
    """What the name of an encoder says of a decoder of ours; None for one of another kind.

    Raises:
        UserError: as `read_states` and `read_gradients`.
    """
    if is_states(name):
        return read_states(name)
    return read_gradients(name) if is_gradients(name) else None


def _settings(name: str, parts: list[str], known: tuple[str, ...]) -> dict[str, Any]:
    given: dict[str, Any] = dict(pairs(name, parts, known))
    for key, value in given.items():
        if key in _CHOICES:
            check(
                value in _CHOICES[key],
                f"{name}: {key}={value} is unknown; choose one of {', '.join(_CHOICES[key])}"
                f"{did_you_mean(value, _CHOICES[key])}",
            )
        if key in _NUMBERS:
            check(
                _is_whole(value) and int(value) >= _NUMBERS[key],
                f"{name}: {key}={value} must be a whole number from {_NUMBERS[key]}",
            )
            given[key] = int(value)
    check(given.get("seed", 0) < 2**32, f"{name}: seed={given.get('seed')} must be below 2³²")
    return given


def _is_whole(value: str) -> bool:
    return value.isascii() and value.isdigit()
