"""The plan as a command does it: compile, print, and seek what fits where the config does not."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.config import flatten
from zsg_jax.data.batches.packing import sequence_counts
from zsg_jax.data.sources import REWRITES
from zsg_jax.data.tokenize import tokenizer as tokenizers
from zsg_jax.models.families import DEFAULT, FAMILIES, is_file
from zsg_jax.planning import advice, machines, report
from zsg_jax.planning.estimate import Estimate, StepShape, estimate, least_bytes
from zsg_jax.runtime import streams
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding
from zsg_jax.training.trainer import Trainer
from zsg_jax.workflows.study_model import make_trainer
from zsg_jax.workflows.validate import validate


def run(
    config: ConfigDict,
    machine: str,
    *,
    rows: int | None = None,
    memory_gb: float | None = None,
    as_json: bool = False,
) -> str | None:
    """Plans the config for a machine and prints it to standard output.

    Args:
        machine: as `machines.parse` takes it.
        rows: of an epoch; None: what the config tells of them.
        memory_gb: 10^9 bytes of each chip that may be used.

    Returns:
        None if it fits; else one line that says what would.

    Raises:
        UserError: for every mistake that a user can mend.
    """
    validate(config)
    if rows is not None and rows < 1:
        raise UserError(f"--rows {rows}: give a number above 0")
    topology = machines.parse(machine, memory_gb)
    machines.prepare(topology)
    devices = machines.devices(topology)
    adapters = bool(config.model.init_from)
    config = without_missing_weights(config)
    rows = rows or epoch_rows(config)
    plan = planned(config, devices, topology)
    batch_size = config.training.batch_size
    if not as_json:
        streams.show(report.as_text(plan, rows, batch_size))
    setting, tried = None, 0
    if not plan.memory.fits:
        setting, tried = seek(config, devices, topology, plan.memory.usable, adapters=adapters)
    flags = None if setting is None else advice.written(setting)
    if as_json:
        streams.show(json.dumps(report.as_tree(plan, rows, batch_size, flags), indent=2))
    if plan.memory.fits:
        return None
    if setting is not None:
        but = ", though it learns otherwise" if advice.learns_otherwise(setting) else ""
        return f"does not fit {topology.name}; this does{but}, nearest of {tried} tried: {flags}"
    others = f", nor does any of {tried} other settings tried" if tried else ""
    return (
        f"does not fit {topology.name}{others}; a chip has "
        f"{report.bytes_text(plan.memory.usable)}, state and gradients alone take "
        f"{report.bytes_text(least_bytes(plan.trainer.abstract_state))} on this mesh; take more or "
        "larger chips"
    )


def planned(config: ConfigDict, devices: Sequence[Any], topology: machines.Topology) -> Estimate:
    """The estimate of the config's own step, compiled for `devices`.

    Raises:
        UserError: a mesh, batch or model that cannot be.
    """
    mesh = make_mesh(config, devices, topology.name)
    return estimate(planned_trainer(config, mesh), step_shape(config, mesh), topology)


def seek(
    config: ConfigDict,
    devices: Sequence[Any],
    topology: machines.Topology,
    usable: int,
    *,
    adapters: bool,
) -> tuple[advice.Setting | None, int]:
    """The nearest setting that fits, and how many were compiled.

    Args:
        usable: bytes of a chip.
        adapters: whether there are weights to be adapted.
    """

    def changed(setting: advice.Setting) -> ConfigDict:
        other = config.copy_and_resolve_references()
        other.update_from_flattened_dict(setting)
        return other

    def may_fit(setting: advice.Setting) -> bool:
        try:
            mesh = make_mesh(changed(setting), devices, topology.name)
            return least_bytes(planned_trainer(changed(setting), mesh).abstract_state) <= usable
        except UserError:
            return False  # sizes that do not divide

    return advice.nearest(
        flatten(config),
        len(devices),
        may_fit,
        lambda setting: planned(changed(setting), devices, topology).memory.fits,
        adapters=adapters,
    )


def make_mesh(config: ConfigDict, devices: Sequence[Any], machine: str) -> Mesh:
    """The config's mesh over the devices of another machine, in the order in which JAX has them.

    Raises:
        UserError: if the sizes do not fit.
    """
    sizes = {axis: int(config.mesh[axis]) for axis in sharding.AXES}
    mesh = sharding.make_mesh(**sizes, devices=devices)
    if mesh.size != len(devices):
        given = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
        raise UserError(
            f"{given} takes {mesh.size} of the {len(devices)} chips of {machine}; give sizes whose "
            f"product is {len(devices)}, one of them -1 for all that are left, or a smaller machine"
        )
    return mesh


def step_shape(config: ConfigDict, mesh: Mesh) -> StepShape:
    """The fullest batch of a step."""
    training = config.training
    at_once = training.micro_batch_size or training.batch_size
    rows = training.batch_size
    if training.packing:
        rows = sequence_counts(rows, sharding.row_devices(mesh), at_once)[-1]
    return StepShape(
        rows=rows,
        length=config.data.max_length,
        micro_batches=training.batch_size // at_once,
        # The course of the learning rate changes a constant of the program and nothing else.
        total=training.steps or training.warmup_steps + 1000,
    )


@dataclass(frozen=True)
class Vocabulary:
    """All that the shape of a model takes from a tokenizer."""

    vocab_size: int


def planned_trainer(config: ConfigDict, mesh: Mesh) -> Trainer:
    """The study's own trainer, without a line of output; only its shapes are used."""
    return make_trainer(
        config,
        vocabulary(config),  # type: ignore[arg-type]
        mesh,
        tell=lambda _: None,
    )


def vocabulary(config: ConfigDict) -> Vocabulary:
    """The tokenizer's size, from its folder or the config; of a model's own where that is not here.

    Raises:
        UserError: if neither tells it.
    """
    if config.tokenizer == "bytes":
        return Vocabulary(tokenizers.ByteTokenizer.vocab_size)
    if config.tokenizer == "train":
        return Vocabulary(config.tokenizer_size)
    if (Path(config.tokenizer) / "tokenizer.json").is_file():
        return Vocabulary(tokenizers.from_folder(config.tokenizer).vocab_size)
    own = _own_vocabulary(config)
    if own is None:
        raise UserError(
            f"tokenizer={config.tokenizer!r} is no folder here and the model has no vocabulary of "
            'its own; give the folder, or tokenizer="train" with tokenizer_size'
        )
    return Vocabulary(own)


def without_missing_weights(config: ConfigDict) -> ConfigDict:
    """The config with `model.init_from` dropped where the folder is not here but the size says all.

    Only the shape of the weights matters to a plan.
    """
    folder = config.model.init_from
    if not folder or (Path(folder) / "config.json").is_file():
        return config
    if _own_vocabulary(config) is None:
        return config  # whoever reads the folder says that it is missing
    changed = config.copy_and_resolve_references()
    changed.model.init_from = ""
    return changed


def _own_vocabulary(config: ConfigDict) -> int | None:
    size = config.model.size
    if is_file(size):
        return None
    sizes = FAMILIES[config.model.family or DEFAULT].sizes
    return sizes[size].get("vocab_size") if size in sizes else None


def epoch_rows(config: ConfigDict) -> int | None:
    """Rows of an epoch as far as the config tells them, without reading any data."""
    known = None
    if config.data.train == REWRITES:
        made = config.data.rewrites
        known = len(made.train_families) * made.rules * made.samples
    budget = config.arrangement.budget
    if budget is None:
        return known
    return budget if known is None else min(known, budget)
