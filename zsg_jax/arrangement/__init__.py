"""The order of training examples: `make` decides and writes it, `methods` lists the ways."""

from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.turns import tmta

__all__ = ["Arrangement", "tmta"]
