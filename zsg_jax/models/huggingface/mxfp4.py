"""MXFP4, in which gpt-oss keeps its experts (Open Compute Project, Microscaling Formats 1.0): read.

Sixteen bytes hold 32 numbers of four bits, of a byte the lower half first, which share a power of
two. A tensor NAME lies as NAME_blocks, (E, outputs, G, 16), and NAME_scales, (E, outputs, G), of G
groups of 32 inputs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from zsg_jax.runtime.errors import check

METHOD, DTYPE = "mxfp4", "MXFP4"
BLOCKS, SCALES = "_blocks", "_scales"
_GROUP = 32
_HALF = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
_VALUES = np.asarray([*_HALF, *(-one for one in _HALF)], np.float32)


def unpacked(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The numbers of (…, G, 16) and (…, G) uint8: (…, 32 G) float32, exactly."""
    halves = np.stack([blocks & 15, blocks >> 4], axis=-1)
    numbers = _VALUES[halves].reshape(*scales.shape, _GROUP)
    numbers = np.ldexp(numbers, scales.astype(np.int32)[..., None] - 127)
    return numbers.reshape(*scales.shape[:-1], -1)


def shape(where: Any, blocks: Any, scales: Any) -> tuple[int, ...]:
    """The shape (E, inputs, outputs) that two tensors stand for; `UserError` if they do not fit."""
    fit = (
        scales is not None
        and len(blocks.shape) == 4
        and blocks.shape[-1] == _GROUP // 2
        and scales.shape == blocks.shape[:-1]
        and blocks.dtype == scales.dtype == "U8"
    )
    check(fit, f"{where}: blocks and scales of MXFP4 do not fit each other; fetch the file again")
    experts, outputs, groups, _ = blocks.shape
    return experts, groups * _GROUP, outputs


def read(slice_of: Callable[[str, tuple], np.ndarray], name: str, index: tuple) -> np.ndarray:
    """A part of the tensor `name`, float32.

    Args:
        slice_of: gives a part of what lies in the file.
        index: three slices, of experts, inputs and outputs.
    """
    experts, inputs, outputs = index
    groups = slice(inputs.start // _GROUP, -(-inputs.stop // _GROUP))
    there = experts, outputs, groups
    numbers = unpacked(slice_of(name + BLOCKS, there), slice_of(name + SCALES, there))
    first = groups.start * _GROUP
    return numbers.swapaxes(1, 2)[:, inputs.start - first : inputs.stop - first]
