"""Natural Instructions in its own layout: tasks become records with the study's prompt."""

from zsg_jax.data.formats.natural_instructions.options import WHOLE, Options
from zsg_jax.data.formats.natural_instructions.read import records

__all__ = ["WHOLE", "Options", "records"]
