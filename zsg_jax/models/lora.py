"""Low-rank adaptation (LoRA, arXiv 2106.09685) of any family's layers.

A layer's W x becomes W x + (alpha / rank) · B A dropout(x), of which A and B alone are trained.
They stand beside the kernel that they adapt, as lora_a and lora_b, for all layers at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from zsg_jax.models.layers import product
from zsg_jax.models.packed import NF4, Packed, pack, packed_product, unpack
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError, check, did_you_mean

ALL = "all"
# What can be adapted, by the part of a layer that holds it.
TARGETS = {"attention": ("q", "k", "v", "o"), "mlp": ("gate", "up", "down")}
A, B, KEY = "lora_a", "lora_b", "lora_key"
# What adapted kernels are kept in: as all that is frozen, or in 4 bits.
BASES = ("same", NF4)


@dataclass(frozen=True)
class LoRA:
    """What is adapted, and how; raises `UserError` on values that make no adapter.

    Attributes:
        rank: r, the rows of A.
        alpha: the sum that the adapter adds is scaled by alpha / rank.
        targets: names such as "q" or "down" of the layers' products, or ("all",).
        dropout: share of the numbers that A sees as 0 while training, the others scaled up.
        base: what the adapted kernels are kept in, one of `BASES`.
    """

    rank: int
    alpha: float = 16.0
    targets: tuple[str, ...] = (ALL,)
    dropout: float = 0.0
    base: str = "same"

    def __post_init__(self) -> None:
        check(bool(self.targets), "LoRA: targets are none; name some, or ('all',)")
        check(self.rank > 0, f"LoRA: rank={self.rank}; give a whole number above 0")
        check(
            0 < self.alpha < math.inf, f"LoRA: alpha={self.alpha}; give a number above 0, as 2·rank"
        )
        check(
            self.base in BASES,
            f"LoRA: base={self.base!r}; choose one of {', '.join(BASES)}"
            + did_you_mean(self.base, BASES),
        )
        check(
            0 <= self.dropout < 1, f"LoRA: dropout={self.dropout}; give a share from 0 to below 1"
        )

    @property
    def scale(self) -> float:
        """What the product of B and A is multiplied by."""
        return self.alpha / self.rank


class AdaptedLinear(nnx.Module):
    """A dense layer with an adapter; `lora_key` is there only while dropout is on."""

    def __init__(self, base: nnx.Linear, lora: LoRA, key: jax.Array, *, training: bool) -> None:
        *stack, inputs, outputs = base.kernel.shape
        self.kernel, self.bias, self.dtype = base.kernel, base.bias, base.dtype
        # As PEFT begins: A uniform, B zero, so that the first step is that of the whole model.
        bound = 1 / math.sqrt(inputs)
        uniform = jax.random.uniform(key, (*stack, inputs, lora.rank), minval=-bound, maxval=bound)
        self.lora_a = nnx.Param(uniform)
        self.lora_b = nnx.Param(jnp.zeros((*stack, lora.rank, outputs)))
        self.scale, self.dropout = lora.scale, lora.dropout if training else 0.0
        if self.dropout:
            self.lora_key = nnx.Param(jnp.zeros((*stack, 2), jnp.uint32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """The layer's product and the adapter's, (…, outputs) in the dtype of the computation."""
        x = x.astype(self.dtype)
        kernel = self.kernel.get_value()
        if isinstance(kernel, Packed):
            y = packed_product(x, kernel)
        else:
            y = product(x, kernel.astype(self.dtype))
        if self.bias is not None:
            y += self.bias[...].astype(self.dtype)
        if self.dropout:
            key = jax.random.wrap_key_data(self.lora_key[...])
            kept = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
            x = jnp.where(kept, x / (1 - self.dropout), 0).astype(self.dtype)
        low = product(x, self.lora_a[...].astype(self.dtype))
        return y + self.scale * product(low, self.lora_b[...].astype(self.dtype))


def attach(model: Any, lora: LoRA, rngs: nnx.Rngs, *, training: bool) -> None:
    """Gives the targets of a model adapters, in place; with `training`, dropout is on.

    Raises:
        UserError: the model has no such target.
    """
    found = {
        name: getattr(model.layers, part)
        for part, names in TARGETS.items()
        for name in names
        if hasattr(getattr(model.layers, part), name)
    }
    for target in lora.targets:
        if target not in (ALL, *found):
            raise UserError(
                f"LoRA: target {target!r} is none of {', '.join((ALL, *found))}"
                + did_you_mean(target.removesuffix("_proj"), found)
            )
    for name, part in found.items():
        if ALL in lora.targets or name in lora.targets:
            adapted = AdaptedLinear(getattr(part, name), lora, rngs.params(), training=training)
            setattr(part, name, adapted)


def split(params: Params) -> tuple[Params, Params]:
    """The adapters of a model's parameters, and the parameters without them."""
    flat = traverse_util.flatten_dict(params)
    adapters = {path: leaf for path, leaf in flat.items() if path[-1] in (A, B)}
    base = {path: leaf for path, leaf in flat.items() if path[-1] not in (A, B, KEY)}
    return traverse_util.unflatten_dict(adapters), traverse_util.unflatten_dict(base)


def join(adapters: Params, base: Params, key: jax.Array | None = None) -> Params:
    """The whole of what `split` has parted, with keys for dropout if a `key` is given."""
    flat = traverse_util.flatten_dict(base) | traverse_util.flatten_dict(adapters)
    if key is not None:
        places = sorted(path for path in flat if path[-1] == A)
        for place, path in enumerate(places):
            keys = jax.random.split(jax.random.fold_in(key, place), flat[path].shape[:-2])
            flat[(*path[:-1], KEY)] = jax.random.key_data(keys)
    return traverse_util.unflatten_dict(flat)


def packed(base: Params, lora: LoRA) -> Params:
    """What `split` gives without adapters, the kernels that have one kept as `lora.base` says."""
    return _of_adapted(pack, base, lora)


def rounded(base: Params, lora: LoRA) -> Params:
    """`base` with the numbers that are computed with once it is `packed`, float32."""
    return _of_adapted(lambda kernel: unpack(pack(kernel)), base, lora)


def _of_adapted(change: Callable[[jax.Array], Any], base: Params, lora: LoRA) -> Params:
    if lora.base != NF4:
        return base
    flat = traverse_util.flatten_dict(base)
    for path in flat:
        part, name = path[-3:-1] if len(path) > 3 else ("", "")
        adapted = ALL in lora.targets or name in lora.targets
        if path[-1] == "kernel" and name in TARGETS.get(part, ()) and adapted:
            flat[path] = change(flat[path])
    return traverse_util.unflatten_dict(flat)


def merge(params: Params, lora: LoRA) -> Params:
    """A model's parameters with every adapter added to its kernel, float32, and gone."""
    adapters, base = (traverse_util.flatten_dict(part) for part in split(params))
    for path, a in adapters.items():
        if path[-1] == A:
            b, kernel = adapters[(*path[:-1], B)], (*path[:-1], "kernel")
            added = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
            base[kernel] = base[kernel].astype(jnp.float32) + lora.scale * added
    return traverse_util.unflatten_dict(base)


def frozen_dtype(path: str, dtype: Any) -> Any:
    """What a parameter that is not trained is kept in: what it is computed in, norms float32.

    So it takes no more memory than it must, and the results are those of float32.
    """
    return jnp.dtype(jnp.float32 if "norm/" in path else dtype)
