"""Frozen kernels in 4 bits: NormalFloat in blocks of inputs (QLoRA, arXiv 2305.14314, section 3).

Quantized and brought back by qwix, which the extra `qlora` installs; two codes are kept in a byte,
since arrays of 4 bits have no one layout on all platforms. Letters in names give shapes: N layers,
D inputs, F outputs, b inputs of a block: 64, or the largest number below that divides D.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from zsg_jax.models.layers import product
from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.settings import setting

NF4 = "nf4"
BLOCK = 64


@partial(jax.tree_util.register_dataclass, data_fields=["codes", "scale"], meta_fields=[])
@dataclass(frozen=True)
class Packed:
    """Kernels: 4.5 bits a weight, or some more where blocks are shorter than 64.

    Attributes:
        codes: (…, D / 2, F) uint8, of each two inputs.
        scale: (…, D / b, F) float32.
    """

    codes: jax.Array
    scale: jax.Array


def pack(kernel_NxDxF: jax.Array) -> Packed:
    """The kernels of all layers.

    Raises:
        UserError: D is odd, or qwix is not installed.
    """
    D = kernel_NxDxF.shape[1]
    check(
        D % 2 == 0,
        f"a kernel of {D} inputs is not kept in 4 bits; leave out {setting('model.lora.base')}",
    )
    block = next(size for size in range(BLOCK, 0, -1) if D % size == 0)
    found = _qwix().quantize(
        kernel_NxDxF.astype(jnp.float32), NF4, channelwise_axes=(0, 2), tiled_axes={1: block}
    )
    codes = found.qvalue.astype(jnp.uint8)
    return Packed(codes[:, ::2] | codes[:, 1::2] << 4, found.scale)


def unpack(packed: Packed) -> jax.Array:
    """The kernels that `pack` took, rounded, (…, D, F) float32."""
    *stack, half, outputs = packed.codes.shape
    both = jnp.stack([packed.codes & 15, packed.codes >> 4], axis=-2)
    codes = both.reshape(*stack, 2 * half, outputs).astype(jnp.uint4)
    qwix = _qwix()
    return qwix.dequantize(qwix.QArray(codes, packed.scale, qtype=NF4))


@jax.checkpoint
def packed_product(x: jax.Array, packed: Packed) -> jax.Array:
    """`layers.product` with a packed kernel, which the backward pass brings back anew."""
    return product(x, unpack(packed).astype(x.dtype))


def _qwix() -> Any:
    try:
        import qwix
    except ImportError:
        raise UserError(
            "kernels in 4 bits need qwix; pip install 'zsg_jax[qlora]', or leave out "
            + setting("model.lora.base")
        ) from None
    return qwix
