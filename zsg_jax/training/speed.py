"""How fast a step was: the fields of a training row that tell of the machine."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.models.families import ModelConfig
from zsg_jax.training import flops


class Speed:
    """Tells tokens a second, MFU and memory from what a step consumed and how long it took."""

    def __init__(self, model: ModelConfig, lengths: np.ndarray, mesh: Mesh, dtype: str) -> None:
        """Takes what does not change from step to step.

        Args:
            model: the shape of what is trained.
            lengths: (N,) the tokens of every training instance.
            mesh: the devices that work.
            dtype: what they compute in, "float32" or "bfloat16".
        """
        self._model, self._lengths = model, lengths
        devices = list(mesh.devices.flat)
        self._mine = [one for one in devices if one.process_index == jax.process_index()]
        peaks = [flops.peak(one.device_kind, dtype) for one in devices]
        known = [one for one in peaks if one is not None]
        self._peak = sum(known) if len(known) == len(peaks) else None

    def __call__(self, rows: Sequence[int], seconds: float) -> dict[str, Any]:
        """The fields of a step.

        Args:
            rows: the instances it consumed, on all processes.
            seconds: how long it took.

        Returns:
            tokens_per_second: real tokens, prompts and answers, of all devices together; mfu, as
            `flops` defines it, where the peak of every device is known; memory, bytes, the most
            that was in use on any device of this process since it began, where the device tells.
        """
        lengths = self._lengths[np.asarray(rows, np.int64)]
        fields: dict[str, Any] = {"tokens_per_second": round(float(lengths.sum()) / seconds, 1)}
        if self._peak is not None:
            done = flops.train(self._model, lengths)
            fields["mfu"] = round(done / seconds / self._peak, 6)
        stats = [one.memory_stats() or {} for one in self._mine]
        used = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
        if used:
            fields["memory"] = max(used)
        return fields
