from zsg_jax.arrangement.arrangement import Arrangement
from zsg_jax.arrangement.tmta import tmta

__all__ = ["Arrangement", "tmta"]
