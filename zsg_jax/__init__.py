"""The right training data at the right time: arrangement studies for instruction tuning in JAX.

From Python: `arrange_data` arranges rows that are in memory, `run_study` runs a study.
"""

from importlib import import_module
from typing import Any

from zsg_jax.runtime import streams

_HOME = {
    "Arranged": "zsg_jax.workflows.in_memory",
    "StudyResult": "zsg_jax.workflows.results",
    "arrange_data": "zsg_jax.workflows.in_memory",
    "run_study": "zsg_jax.workflows.results",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    # Imported where it is asked for, so that `--help` and `--version` do not wait for JAX.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


streams.settle()
