"""The page of a comparison of selections."""

from zsg_jax.report.selection.build import build
from zsg_jax.report.selection.results import Cell

__all__ = ["Cell", "build"]
