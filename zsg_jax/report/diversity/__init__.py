"""The page of the instruction-diversity study."""

from zsg_jax.report.diversity.build import build

__all__ = ["build"]
