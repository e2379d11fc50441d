"""What a run went through while it was trained: its checkpoints, with the moments of its optimizer.

A warm-up, as LESS (arXiv 2402.04333, section 3.1) has it, is a run whose gradients tell how much a
step on one example helps another.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from zsg_jax.data.tokenize.encode import Form
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.models import lora
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.gradients import Named, select
from zsg_jax.models.lora import LoRA
from zsg_jax.models.model import cast
from zsg_jax.runtime.errors import check
from zsg_jax.training import metrics, optimizer
from zsg_jax.training.finished import finished
from zsg_jax.training.initial_weights import padded_as
from zsg_jax.workdir import trained
from zsg_jax.workdir.decoders import form_of, frozen, open_decoder, run_at, study_of


class Passed(NamedTuple):
    """A model as one checkpoint has it.

    Attributes:
        chosen, others: its parameters, as `models.gradients.select` parts them, float32.
        rate: the mean learning rate of the steps since the checkpoint before; 1 where there is no
            run.
        moments: Adam's of `chosen`, as `optimizer.moments` gives them; None: none are kept.
    """

    chosen: Named
    others: Named
    rate: float
    moments: Any


class Warmup(NamedTuple):
    """A language model with what it was at some steps, and what its texts are made by.

    Attributes:
        name: the folder's, or the run's with its steps.
        model: its config.
        adapters: those that were trained; None: the weights were.
        passed: its checkpoints, the first first; of a folder itself alone.
        direction: what makes the next step's direction of gradients and moments; None: there are no
            moments.
        tokenizer, form: how examples become tokens.
    """

    name: str
    model: ModelConfig
    adapters: LoRA | None
    passed: tuple[Passed, ...]
    direction: Callable[[Any, Any], Any] | None
    tokenizer: Tokenizer
    form: Form


def open_warmup(
    given: str,
    folder: str,
    told: str,
    steps: Sequence[int] = (),
    weights: str = "",
    **changes: str,
) -> Warmup:
    """Loads the checkpoints of a run, or a Hugging Face folder.

    Args:
        given, folder, told, changes: as `open_decoder` takes them.
        steps: more checkpoints than the one that a run is given with; where it is given without,
            all that are kept are loaded.
        weights: which parameters are chosen, as `models.gradients.select` takes them.

    Raises:
        UserError: as `open_decoder`; or the run's records do not tell its learning rate.
    """
    run = run_at(folder)
    if run is None:
        check(not steps, f"{told}: is no run, which alone has steps; give one, or leave them out")
        one = open_decoder(given, folder, told, **changes)
        parts = select(cast(one.params, jnp.float32), weights, adapted=False, told=told)
        alone = Passed(*parts, 1.0, None)
        return Warmup(one.name, one.model, None, (alone,), None, one.tokenizer, one.form)
    study = study_of(run, told)
    place = trained.folder_of(run, f"{told}: run")
    kept = trained.checkpoints(run, f"{told}: run")
    if run.step is None:
        kept.whole()  # that of its end is among them, or it is told
    at = sorted([run.step, *steps] if run.step is not None else kept.finished())
    rates = _rates(place, at, told)
    base = frozen(study, study.lora) if study.lora is not None else None
    model, passed = study.model, list[Passed]()
    for step, rate in zip(at, rates, strict=True):
        params, state = kept.optimized(step, _optimizer(study.config).init)
        if base is None:
            model = padded_as(study.model, params["embed"]["embedding"].shape[0])
        params = cast(params, jnp.float32)
        whole = params if base is None else lora.join(params, base)
        chosen, others = select(whole, weights, adapted=base is not None, told=told)
        moments = _only(optimizer.moments(state), chosen)
        passed.append(Passed(chosen, others, rate, moments))
    made = form_of(told, study.config, study.tokenizer, study.tokenizer_name, changes)
    name = f"{run.name}@{','.join(map(str, at))}"
    direction = optimizer.adam_direction
    return Warmup(name, model, study.lora, tuple(passed), direction, study.tokenizer, made)


def _only(moments: Any, chosen: Named) -> Any:
    """Adam's moments of these parameters, float32."""
    first, second = (
        {name: leaf.astype(jnp.float32) for name, leaf in every.items() if name in chosen}
        for every in (flatten_dict(tree, sep="/") for tree in (moments.mu, moments.nu))
    )
    return moments._replace(mu=first, nu=second)


def _optimizer(config: Mapping[str, Any]) -> Any:
    """The optimizer of a study, its learning rate aside, of which no state's shape depends."""
    return optimizer.adamw(
        lambda step: 0.0,
        clip_norm=config["training.clip_norm"],
        weight_decay=config["training.weight_decay"],
    )


def _rates(folder: Path, steps: Sequence[int], told: str) -> list[float]:
    """The mean learning rate before each of these steps, from the one before it on."""
    finished(folder)  # of which records are what the run ended with
    rates = {
        one["step"]: one["learning_rate"]
        for one in metrics.read_records(folder)
        if one["kind"] == "train"
    }
    found = []
    for before, step in zip([0, *steps], steps, strict=False):
        since = [rates.get(at, 0.0) for at in range(before + 1, step + 1)]
        mean = float(np.mean(since)) if since else 0.0
        check(
            mean > 0,
            f"{told}: {folder / metrics.FILE} tells no learning rate above 0 of the steps "
            f"{before + 1} to {step}, by which checkpoints are weighed; name others",
        )
        found.append(mean)
    return found
