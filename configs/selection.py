"""Which space and which rule select the training rows that help most, against rows at random."""

from ml_collections import ConfigDict

from zsg_jax.config import choose, default_config, p3, pretrained_here, smollm2
from zsg_jax.config_selection import selection_config


def get_config(preset: str = "") -> ConfigDict:
    """The built-in example, or a preset."""
    bases = {"": pretrained_here, "p3": p3, "smollm2": smollm2}
    config = selection_config(choose("selection", default_config(), preset, bases))
    return choose("selection", config, preset, {"": _built_in, "p3": _p3, "smollm2": _smollm2})


def _built_in(config: ConfigDict) -> None:
    """400 test rows of two families, half of them to aim at."""
    config.data.rewrites.test_rules = 100


def _p3(config: ConfigDict) -> None:
    """A Llama of 260,032 parameters, all of whose weights are tuned."""
    config.grid.spaces = ("hashing", "all-MiniLM-L6-v2", "states:start")
    config.evaluation.metrics = ("loss", "exact_match")
    config.report.title += ", P3"


def _smollm2(config: ConfigDict) -> None:
    """SmolLM2-135M with adapters."""
    _p3(config)
    config.model.lora.rank = 8
    config.training.learning_rate = 2e-4
    config.report.title += ", SmolLM2-135M with adapters"
