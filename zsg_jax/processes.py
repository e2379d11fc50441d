"""What several processes of one study do once, and where they wait for each other."""

from collections.abc import Callable

import jax
from jax.experimental import multihost_utils


def is_first() -> bool:
    """Whether this process writes the shared files and speaks to the user."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has come here; `name` is the same on all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def once(name: str, work: Callable[[], object]) -> None:
    """Runs `work` on the first process; the others wait until it is done."""
    if is_first():
        work()
    wait_for_all(name)
