"""A study small enough for several processes on two cores: 256 rows, 8 a step, one layer."""

from ml_collections import ConfigDict

from zsg_jax.config import default_config


def get_config() -> ConfigDict:
    """The built-in example, made small."""
    config = default_config()
    config.seeds = (0,)
    config.arrangement.methods = ("tmta-nft",)
    config.data.rewrites.rules = 8
    config.data.rewrites.samples = 8
    config.data.rewrites.test_rules = 2
    config.model.size = "tests/faults/one_layer.json"
    config.training.batch_size = 8
    config.evaluation.every = 2
    return config
