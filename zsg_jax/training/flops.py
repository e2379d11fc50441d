"""How many operations a model's training asks for, and how many a second a device has to give.

The one place where model FLOPs utilization (arXiv 2204.02311, appendix B) is defined here:

    MFU = 3 · forward FLOPs of the real tokens / seconds / (devices · peak FLOP/s of one)

The backward pass takes twice the forward pass. A matrix product of (a, b) by (b, c) is 2·a·b·c.
Counted are the products with weights, the head's over every real token included, and in attention
the pairs of a query and a key that it may see: half the square of a segment, less under a window.
Not counted are padding, other segments, looking embeddings up, norms, softmax and what remat
computes again. So it is the share of the hardware that trains, not the share that is kept busy.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from zsg_jax.models.families import ModelConfig
from zsg_jax.models.gpt2 import Gpt2Config

# Dense peak FLOP/s of one JAX device by how its device_kind begins, from the makers' data sheets:
# bfloat16 products, and those of float32 arrays at JAX's default precision, which is TF32 on these
# GPUs and one bfloat16 pass on TPUs. The longest beginning decides. What is not here, such as a
# CPU or an H100 on PCIe, has no MFU.
PEAKS: dict[str, tuple[float, float]] = {
    # NVIDIA H100 and H200 Tensor Core GPU data sheets, SXM, without sparsity.
    "NVIDIA H100 80GB HBM3": (989e12, 494.7e12),
    "NVIDIA H200": (989e12, 494.7e12),
    # NVIDIA A100 Tensor Core GPU data sheet, without sparsity.
    "NVIDIA A100": (312e12, 156e12),
    # cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, a chip each.
    "TPU v4": (275e12, 275e12),
    "TPU v5 lite": (197e12, 197e12),
    "TPU v5e": (197e12, 197e12),
    "TPU v5": (459e12, 459e12),
    "TPU v5p": (459e12, 459e12),
    "TPU v6 lite": (918e12, 918e12),
    "TPU v6e": (918e12, 918e12),
}
# These are other chips; a slice of a card (MIG) has but a part of its rate.
_OTHERS = ("TPU v4i", "TPU v4 lite", "NVIDIA H200 NVL")


def peak(device_kind: str, dtype: str) -> float | None:
    """FLOP/s of one device for products in "bfloat16" or "float32"; None: not known."""
    found = [kind for kind in PEAKS if device_kind.startswith(kind)]
    if not found or device_kind.startswith(_OTHERS) or "MIG" in device_kind:
        return None
    bfloat16, float32 = PEAKS[max(found, key=len)]
    return {"bfloat16": bfloat16, "float32": float32}.get(jnp.dtype(dtype).name)


def train(model: ModelConfig, lengths: Iterable[int], *, frozen: bool = False) -> int:
    """FLOPs of a forward and a backward pass over segments of these lengths, in tokens.

    Args:
        frozen: whether the weights get no gradient of their own, which saves a third of their
            products; those of adapters beside them are not counted.
    """
    all_lengths = [int(length) for length in lengths]
    spared = 2 * weights(model) * sum(all_lengths) if frozen else 0
    return 3 * forward(model, all_lengths) - spared


def forward(model: ModelConfig, lengths: Iterable[int]) -> int:
    """FLOPs of a forward pass over segments of these lengths, in tokens."""
    each = [int(length) for length in lengths]
    by_window = {window: sum(pairs(length, window) for length in each) for window in model.windows}
    windows = (model.windows[layer % len(model.windows)] for layer in range(model.num_layers))
    # A score takes a product over the head's width, and so does a value's share.
    attention = 2 * 2 * model.num_heads * model.head_dim * sum(by_window[one] for one in windows)
    return 2 * weights(model) * sum(each) + attention


def weights(model: ModelConfig) -> int:
    """How many weights a token is multiplied with: those of the layers and the head's.

    Of experts, those that a token takes, and the router's. Neither biases and norms, nor the
    embedding's table, unless it is the head too.
    """
    D, H = model.hidden_size, model.head_dim
    mixing = 2 * D * (model.num_heads + model.num_kv_heads) * H
    mlp = (2 if isinstance(model, Gpt2Config) else 3) * D * model.intermediate_size
    routing = None if isinstance(model, Gpt2Config) else model.routing
    if routing is not None:
        mlp = routing.chosen * mlp + D * routing.experts
    return model.num_layers * (mixing + mlp) + D * model.vocab_size


def pairs(length: int, window: int | None = None) -> int:
    """How many keys all queries of a segment see together, each itself included."""
    seen = length if window is None else min(length, window)
    return seen * (seen + 1) // 2 + (length - seen) * seen


class Speed:
    """Tells tokens a second, MFU and memory from what a step consumed and how long it took."""

    def __init__(
        self,
        model: ModelConfig,
        lengths: np.ndarray,
        mesh: Mesh,
        dtype: str,
        *,
        frozen: bool = False,
    ) -> None:
        """Takes what does not change from step to step.

        Args:
            model: the shape of what is trained.
            lengths: (N,) the tokens of every training instance.
            mesh: the devices that work.
            dtype: what they compute in, "float32" or "bfloat16".
            frozen: as `train` takes it.
        """
        self._model, self._lengths, self._frozen = model, lengths, frozen
        devices = list(mesh.devices.flat)
        self._own_devices = [one for one in devices if one.process_index == jax.process_index()]
        peaks = [peak(one.device_kind, dtype) for one in devices]
        known = [one for one in peaks if one is not None]
        self._peak = sum(known) if len(known) == len(peaks) else None

    def __call__(self, index: Sequence[int], seconds: float) -> dict[str, Any]:
        """The fields of a step.

        Args:
            index: the instances it consumed, on all processes.
            seconds: how long it took.

        Returns:
            tokens_per_second: real tokens, prompts and answers, of all devices together; mfu, as
            this module defines it, where the peak of every device is known; memory, bytes, the most
            that was in use on any device of this process since it began, where the device tells.
        """
        lengths = self._lengths[np.asarray(index, np.int64)]
        seconds = max(seconds, 1e-9)  # of a clock that stands still
        fields: dict[str, Any] = {"tokens_per_second": round(float(lengths.sum()) / seconds, 1)}
        if self._peak is not None:
            done = train(self._model, lengths, frozen=self._frozen)
            fields["mfu"] = round(done / seconds / self._peak, 6)
        stats = [one.memory_stats() or {} for one in self._own_devices]
        used = [one["peak_bytes_in_use"] for one in stats if "peak_bytes_in_use" in one]
        if used:
            fields["memory"] = max(used)
        return fields
