"""A study from its config to its page; no other room reads a config."""

from zsg_jax.study.stages import run

__all__ = ["run"]
