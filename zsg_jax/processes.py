"""What several processes of one study do once, what they share, and where they wait."""

from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh


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


def from_all(part: np.ndarray, mesh: Mesh) -> list[np.ndarray]:
    """The part of each process that computes on `mesh`, all of one shape and of 32 or 64 bits."""
    if len({device.process_index for device in mesh.devices.flat}) == 1:
        return [part]
    # JAX would make 32 bits of 64.
    parts = multihost_utils.process_allgather(np.ascontiguousarray(part).view(np.int32))
    return [np.asarray(one).view(part.dtype) for one in parts]
