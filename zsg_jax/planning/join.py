"""From a config and a machine to the compiled train step: where planning meets training."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.data.batches.packing import row_counts
from zsg_jax.data.tokenize import tokenizer as tokenizers
from zsg_jax.models import compute
from zsg_jax.models.choose import DEFAULT, is_file
from zsg_jax.models.families import FAMILIES, ModelConfig
from zsg_jax.planning.chips import GIB
from zsg_jax.runtime.errors import UserError
from zsg_jax.training import sharding
from zsg_jax.training.step import train_step
from zsg_jax.training.trainer import Trainer
from zsg_jax.workflows.study_model import make_trainer

# What it takes of memory and of time to have the backward pass compute more again.
REMAT: tuple[str, ...] = tuple(compute.REMAT)


@dataclass(frozen=True)
class Vocabulary:
    """All that the shape of a model takes from a tokenizer."""

    vocab_size: int


@dataclass(frozen=True)
class Compiled:
    """A train step, compiled for a machine.

    Attributes:
        trainer: made as the study makes it.
        mesh_shape: sizes by axis.
        rows, length: of a step's batch; micro_batches: its parts.
        step: the program; None where the compiler found that it does not fit.
        needed: bytes of a chip's memory that the compiler then told, else 0.
        seconds: that compiling took.
    """

    trainer: Trainer
    mesh_shape: dict[str, int]
    rows: int
    length: int
    micro_batches: int
    total: int
    step: jax.stages.Compiled | None
    needed: int
    seconds: float

    @property
    def model(self) -> ModelConfig:
        """The architecture."""
        return self.trainer.model

    def batch(self) -> Any:
        """Shapes and shardings of the batch."""
        return self.trainer.abstract_batch(self.length, self.rows)

    def jaxpr(self) -> Any:
        """The step as JAX traces it, of all chips together."""
        step = partial(train_step, **self.trainer.train_step_arguments(self.total))
        with jax.set_mesh(self.trainer.mesh):
            return jax.make_jaxpr(step)(self.trainer.abstract_state, self.batch()).jaxpr


def make_mesh(config: ConfigDict, devices: Sequence[Any], machine: str) -> Mesh:
    """The config's mesh over the devices of another machine, in the order in which JAX has them.

    Raises:
        UserError: if the sizes do not fit.
    """
    sizes = {axis: int(config.mesh[axis]) for axis in sharding.AXES}
    mesh = sharding.make_mesh(**sizes, devices=devices)
    if mesh.size != len(devices):
        told = ", ".join(f"mesh.{axis}={size}" for axis, size in sizes.items())
        raise UserError(
            f"{told} takes {mesh.size} of the {len(devices)} chips of {machine}; give sizes whose "
            f"product is {len(devices)}, one of them -1 for all that are left, or a smaller machine"
        )
    return mesh


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


def resolve(config: ConfigDict) -> ConfigDict:
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


def rows_of(config: ConfigDict, mesh: Mesh) -> int:
    """Rows of the fullest batch of a step."""
    training = config.training
    if not training.packing:
        return training.batch_size
    at_once = training.micro_batch_size or training.batch_size
    return row_counts(training.batch_size, sharding.row_devices(mesh), at_once)[-1]


def trainer_of(config: ConfigDict, mesh: Mesh) -> Trainer:
    """The study's own trainer, which keeps still; only its shapes are used."""
    return make_trainer(
        config,
        vocabulary(config),  # type: ignore[arg-type]
        mesh,
        tell=lambda _: None,
    )


def compile_step(config: ConfigDict, devices: Sequence[Any], machine: str) -> Compiled:
    """Compiles the config's own train step for `devices`.

    Raises:
        UserError: a mesh, batch or model that cannot be.
    """
    mesh = make_mesh(config, devices, machine)
    trainer = trainer_of(config, mesh)
    training = config.training
    # The course of the learning rate changes a constant of the program and nothing else.
    total = training.steps or training.warmup_steps + 1000
    rows, length = rows_of(config, mesh), config.data.max_length
    started = time.perf_counter()
    step, needed = _or_needed(lambda: trainer.compiled_step(total, length, [rows]))
    return Compiled(
        trainer=trainer,
        mesh_shape=dict(mesh.shape),
        rows=rows,
        length=length,
        micro_batches=training.batch_size // (training.micro_batch_size or training.batch_size),
        total=total,
        step=step,
        needed=needed,
        seconds=time.perf_counter() - started,
    )


# What the compiler says before and after it has laid out the program, arguments included.
_REFUSALS = (
    r"total memory required for HLO temporaries \(([\d.]+)([KMGT]?)\)",
    r"[Uu]sed ([\d.]+)([KMGT]?)i?B? of [\d.]+[KMGT]?i?B? hbm",
)


def needed_bytes(message: str) -> int:
    """Bytes of memory that a compiler's refusal says a program takes, 0 if it does not say."""
    found = next(filter(None, (re.search(pattern, message) for pattern in _REFUSALS)), None)
    if found is None:
        return 0
    unit = {"": 1, "K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}[found[2]]
    return int(float(found[1]) * unit)


def _or_needed(compile_it: Callable[[], Any]) -> tuple[jax.stages.Compiled | None, int]:
    try:
        return compile_it(), 0
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, needed_bytes(str(error))


def _own_vocabulary(config: ConfigDict) -> int | None:
    size = config.model.size
    if is_file(size):
        return None
    sizes = FAMILIES[config.model.family or DEFAULT].SIZES
    return sizes[size].get("vocab_size") if size in sizes else None
