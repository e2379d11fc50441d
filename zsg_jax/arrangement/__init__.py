from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.turns import tmta

__all__ = ["Arrangement", "tmta"]
