"""The order of training examples: `make` decides and writes it, `methods` lists the ways."""

from typing import TYPE_CHECKING, Any

from zsg_jax.arrangement.arrangement import Arrangement

if TYPE_CHECKING:
    from zsg_jax.arrangement.turns import tmta

__all__ = ["Arrangement", "tmta"]


def __getattr__(name: str) -> Any:
    # Imported where it is asked for: the names of methods are known without JAX.
    if name != "tmta":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zsg_jax.arrangement.turns import tmta

    return tmta
