"""What an encoder is named by, read before anything is computed."""

from collections.abc import Mapping
from typing import NamedTuple

from zsg_jax.data.tokenize.truncation import TRUNCATIONS
from zsg_jax.runtime.addresses import pairs
from zsg_jax.runtime.errors import UserError, check, did_you_mean

STATES = "states:"
# By their names among the poolings of sentence encoders (`folder.POOLINGS`).
POOLINGS: Mapping[str, str] = {"weighted": "weightedmean", "mean": "mean", "last": "lasttoken"}
ALL, ANSWERS = TOKENS = ("all", "answers")
_CHOICES = {"pooling": tuple(POOLINGS), "tokens": TOKENS, "truncation": TRUNCATIONS}
_USAGE = "write states:FOLDER, states:RUN[@STEP] or states:hub:OWNER/NAME, then ,KEY=VALUE"


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


def is_states(name: str) -> bool:
    """Whether an encoder is the hidden states of a decoder."""
    return name.startswith(STATES)


def read_states(name: str) -> States:
    """What "states:…" says.

    Raises:
        UserError: a key that there is not or that comes twice, a wrong value, or no model.
    """
    model, *parts = name.removeprefix(STATES).split(",")
    check(bool(model), f"{name}: names no model; {_USAGE}")
    known = States._fields[1:]
    given = dict(pairs(name, parts, known))
    for key, choices in _CHOICES.items():
        value = given.get(key, choices[0])
        check(
            value in choices,
            f"{name}: {key}={value} is unknown; choose one of {', '.join(choices)}"
            f"{did_you_mean(value, choices)}",
        )
    numbers = {
        key: _whole(name, key, given.pop(key)) for key in ("layer", "length") if key in given
    }
    return States(model, **numbers, **given)  # type: ignore[arg-type]


def check_encoder(name: str) -> None:
    """Refuses what no encoder could be called."""
    if is_states(name):
        read_states(name)


def _whole(name: str, key: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise UserError(f"{name}: {key}={value} must be a whole number from 1")
    return int(value)
