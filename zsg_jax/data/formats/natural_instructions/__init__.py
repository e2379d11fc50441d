"""Natural Instructions in its own layout: tasks become records with the study's prompt."""

from zsg_jax.data.formats.natural_instructions.options import WHOLE, Options
from zsg_jax.data.formats.natural_instructions.read import DEMONSTRATION, records

__all__ = ["DEMONSTRATION", "WHOLE", "Options", "records"]
