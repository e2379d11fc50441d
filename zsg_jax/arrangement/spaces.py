"""The encoder that a name stands for, with the model it needs found, fetched and opened."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.runtime.settings import setting
from zsg_jax.similarity.encoders.address import STATES, is_states, read_states
from zsg_jax.similarity.encoders.registry import Encoder, choose_encoder
from zsg_jax.workdir import hub


def fetched(name: str) -> Mapping[str, tuple[str, ...]]:
    """What `hub.fetch` is to look for, as its arguments."""
    if is_states(name):
        model = (read_states(name).model,)
        return {"models": model, "tokenizers": model}
    return {"encoders": (name,)}


def open_encoder(name: str, home: Path) -> Encoder:
    """The encoder that is called `name`.

    Args:
        name: as `choose_encoder` takes it, a name of the hub, or "states:…", as `read_states` does.
        home: keeps the commits that names of the hub stand for; `fetched` was looked for there.

    Raises:
        UserError: there is none, or it is damaged or not computed here.
    """
    if is_states(name):
        return _states(name, home)
    called = name.removeprefix(hub.HUB) if hub.is_name(name) else ""
    return choose_encoder(hub.folder(name, home), called)


def _states(name: str, home: Path) -> Encoder:
    # Imported here: checkpoints take seconds to import, and most encoders have none.
    from zsg_jax.similarity.encoders.states import StatesEncoder
    from zsg_jax.workdir.decoders import open_decoder

    settings = read_states(name)
    changes = {
        key: value for key in ("template", "truncation") if (value := getattr(settings, key))
    }
    told = setting("similarity.encoder", f"{STATES}{settings.model}")
    given = settings.model
    opened = open_decoder(given, hub.folder(given, home), told, **changes)
    # Each process embeds a share of its own, so the devices of others would wait for ever.
    mesh = Mesh(np.asarray(jax.local_devices()), ("rows",))
    called = given.removeprefix(hub.HUB) if hub.is_name(given) else opened.name
    return StatesEncoder(
        opened.model,
        opened.params,
        opened.tokenizer,
        opened.form,
        settings,
        mesh=mesh,
        called=called,
    )
