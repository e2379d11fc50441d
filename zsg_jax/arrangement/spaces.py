"""The encoder that a name stands for, with the model it needs found, fetched and opened."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.data.tokenize.encode import ALL
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.encoders.address import (
    ADAM,
    GRADIENTS,
    PLAIN,
    STATES,
    Gradients,
    States,
    is_gradients,
    is_states,
    read_encoder,
    read_gradients,
    read_states,
)
from zsg_jax.similarity.encoders.registry import Encoder, choose_encoder
from zsg_jax.workdir import hub


def fetched(name: str) -> Mapping[str, tuple[str, ...]]:
    """What `hub.fetch` is to look for, as its arguments."""
    if read := read_encoder(name):
        return {"models": (read.model,), "tokenizers": (read.model,)}
    return {"encoders": (name,)}


def open_encoder(name: str, home: Path, answers: str = ALL) -> Encoder:
    """The encoder that is called `name`, of training examples where it tells them from others.

    Args:
        name: as `choose_encoder` takes it, a name of the hub, "states:…", as `read_states` does,
            or "gradients:…", as `read_gradients` does.
        home: keeps the commits that names of the hub stand for; `fetched` was looked for there.
        answers: which of a conversation's answers are learned, as `data.answers` takes it; "all"
            leaves a model's own form as it is.

    Raises:
        UserError: there is none, or it is damaged or not computed here.
    """
    if is_states(name):
        return _states(name, home, answers)
    if is_gradients(name):
        return _gradients(name, home, answers)
    called = name.removeprefix(hub.HUB) if hub.is_name(name) else ""
    return choose_encoder(hub.folder(name, home), called)


def of_targets(encoder: Encoder) -> Encoder:
    """The encoder of test examples that goes with one of training examples."""
    own = getattr(encoder, "targets", None)
    return own() if own else encoder


def _opening(
    prefix: str, settings: States | Gradients, home: Path, answers: str
) -> tuple[Any, ...]:
    """What opens a model: its name, its local folder, what messages call it, and its form."""
    changes = {
        key: value for key in ("template", "truncation") if (value := getattr(settings, key))
    }
    if answers != ALL:
        changes["answers"] = answers
    told = setting("similarity.encoder", f"{prefix}{settings.model}")
    return settings.model, hub.folder(settings.model, home), told, changes


def _local() -> Mesh:
    # Each process embeds a share of its own, so the devices of others would wait for ever.
    return Mesh(np.asarray(jax.local_devices()), ("rows",))


def _called(given: str, name: str) -> str:
    return given.removeprefix(hub.HUB) if hub.is_name(given) else name


def _states(name: str, home: Path, answers: str) -> Encoder:
    # Imported here: checkpoints take seconds to import, and most encoders have none.
    from zsg_jax.similarity.encoders.states import StatesEncoder
    from zsg_jax.workdir.decoders import open_decoder

    settings = read_states(name)
    given, folder, told, changes = _opening(STATES, settings, home, answers)
    opened = open_decoder(given, folder, told, **changes)
    return StatesEncoder(
        opened.model,
        opened.params,
        opened.tokenizer,
        opened.form,
        settings,
        mesh=_local(),
        called=_called(given, opened.name),
    )


def _gradients(name: str, home: Path, answers: str) -> Encoder:
    from zsg_jax.similarity.encoders.gradients import GradientsEncoder, Stage
    from zsg_jax.workdir.warmup import open_warmup

    settings = read_gradients(name)
    given, folder, told, changes = _opening(GRADIENTS, settings, home, answers)
    opened = open_warmup(given, folder, told, settings.steps, settings.weights, **changes)
    check(
        settings.train != ADAM or opened.direction is not None,
        f"{name}: train={ADAM}, but a folder keeps no optimizer's state; give a run, or "
        f"train={PLAIN}",
    )
    return GradientsEncoder(
        opened.model,
        [Stage(*one) for one in opened.passed],
        opened.tokenizer,
        opened.form,
        settings,
        lora=opened.adapters,
        direction=None if settings.train == PLAIN else opened.direction,
        mesh=_local(),
        called=_called(given, opened.name),
    )
