"""Whether all processes of a study stop after the step at work: a vote among their devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zsg_jax.runtime import signals


class Ballot:
    """Whether any process was told to stop: the same answer on all of them, for the same step.

    A vote is one small maximum over the mesh, given to the devices before a step and read after it
    was given to them too, so that no step waits for it.
    """

    def __init__(self, mesh: Mesh) -> None:
        """Takes the mesh, on which every process has devices."""
        self._alone = len({device.process_index for device in mesh.devices.flat}) == 1
        self._votes = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._devices = sum(
            device.process_index == jax.process_index() for device in mesh.devices.flat
        )
        self._most = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._result: jax.Array | bool = False

    def cast(self) -> None:
        """Votes for this process, as of now; all processes do."""
        if self._alone:
            self._result = signals.asked()
            return
        # This is the transfer that is meant, where others are forbidden.
        with jax.transfer_guard("allow"):
            vote = np.full(self._devices, signals.asked(), np.int32)
            self._result = self._most(jax.make_array_from_process_local_data(self._votes, vote))

    def stops(self) -> bool:
        """The result of the vote that was cast last."""
        stop = bool(jax.device_get(self._result))
        signals.agree(stop)
        return stop
