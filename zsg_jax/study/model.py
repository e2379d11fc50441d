"""A study's model, on its mesh."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from zsg_jax.data.tokenizers import Tokenizer
from zsg_jax.errors import UserError
from zsg_jax.models.choose import choose, is_file
from zsg_jax.models.compute import Compute
from zsg_jax.models.families import family_name
from zsg_jax.progress import say
from zsg_jax.training.trainer import Trainer, TrainerOptions


def make_trainer(config: ConfigDict, tokenizer: Tokenizer, mesh: Mesh) -> Trainer:
    """The model that the config names, for this tokenizer, with its shapes and shardings.

    Raises:
        UserError: a folder or size that does not fit the tokenizer or the lengths.
    """
    longest = max(config.data.max_length, config.evaluation.max_length)
    shape = config.model.init_from or config.model.size
    model = choose(
        config.model.family,
        config.model.size,
        config.model.init_from,
        vocab_size=tokenizer.vocab_size,
        max_positions=longest,
    )
    if config.model.init_from or is_file(shape):
        if model.vocab_size < tokenizer.vocab_size:
            raise UserError(
                f"tokenizer={config.tokenizer!r} has {tokenizer.vocab_size} entries, the model in "
                f"{shape} only {model.vocab_size}; use the model's own folder"
            )
        if model.max_positions < longest:
            raise UserError(
                f"data.max_length={config.data.max_length} and evaluation.max_length="
                f"{config.evaluation.max_length} must not pass the {model.max_positions} positions "
                f"of the model in {shape}"
            )
    training = config.training
    options = TrainerOptions(
        batch_size=training.batch_size,
        micro_batch_size=training.micro_batch_size or training.batch_size,
        learning_rate=training.learning_rate,
        schedule=training.schedule,
        warmup_steps=training.warmup_steps,
        clip_norm=training.clip_norm,
        weight_decay=training.weight_decay,
        packing=training.packing,
    )
    trainer = Trainer(
        model,
        options,
        mesh,
        compute=Compute(jnp.dtype(config.model.dtype), config.model.remat),
        param_dtype=config.model.param_dtype,
        init_from=config.model.init_from or None,
    )
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    say(
        f"model: {family_name(model)}, {trainer.parameters:,} parameters; mesh {axes} on "
        f"{jax.default_backend()}"
    )
    if config.model.param_dtype != "float32":
        say(
            f"model.param_dtype={config.model.param_dtype}: the weights keep 8 bits of precision, "
            "so an update under a 256th of a weight is lost; float32 keeps it"
        )
    return trainer


def model_name(config: ConfigDict, trainer: Trainer) -> str:
    """Family, parameters and origin, for the page."""
    origin = config.model.init_from or f"{config.model.size}, from random weights"
    return f"{family_name(trainer.model)}, {trainer.parameters:,} parameters ({origin})"
