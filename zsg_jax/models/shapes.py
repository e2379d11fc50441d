"""The shape of a language model: the fields that families share, their checks, named sizes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from zsg_jax.models.rotary import RopeScaling
from zsg_jax.runtime.errors import UserError, check, nearest


@dataclass(frozen=True)
class RotaryConfig:
    """What Llama, Mistral and Qwen share; raises `UserError` on values that make no model."""

    NAME: ClassVar[str]

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rms_norm_eps: float = 1e-5
    tie_embeddings: bool = False
    # Rows that the tables have beyond the vocabulary, where a mesh splits them; never predicted.
    vocab_padding: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self)
        for name in ("rope_theta", "rms_norm_eps"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            check(
                number and 0 < value < math.inf,
                f"{self.NAME}: {name}={value!r}; give a number above 0",
            )
        check(
            isinstance(self.tie_embeddings, bool),
            f"{self.NAME}: tie_embeddings={self.tie_embeddings!r}; give True or False",
        )
        check(
            self.num_heads % self.num_kv_heads == 0,
            f"{self.NAME}: num_heads={self.num_heads} is no multiple of "
            f"num_kv_heads={self.num_kv_heads}; give a num_kv_heads that divides it",
        )
        check(
            self.head_dim % 2 == 0,
            f"{self.NAME}: head_dim={self.head_dim} is odd; rotary positions need an even one",
        )


def check_whole_numbers(config: Any) -> None:
    """Refuses a field of kind int that holds anything but a whole number above 0.

    `vocab_padding` may be 0.
    """
    for field in fields(config):
        if field.type is not int:
            continue
        value, least = getattr(config, field.name), int(field.name != "vocab_padding")
        whole = isinstance(value, int) and not isinstance(value, bool)
        check(
            whole and value >= least,
            f"{config.NAME}: {field.name}={value!r}; give a whole number above {least - 1}",
        )


Config = TypeVar("Config")


def sized(
    make: type[Config],
    sizes: Mapping[str, Mapping[str, Any]],
    name: str,
    vocab_size: int | None = None,
    max_positions: int | None = None,
) -> Config:
    """The config of a named size; `vocab_size` and `max_positions` win over the size's own.

    Raises:
        UserError: `name` is none of `sizes`, or the size has no vocabulary or positions of its
            own and none were given.
    """
    family: str = make.NAME  # type: ignore[attr-defined]
    if name not in sizes:
        hint = nearest(name, sizes, cutoff=0.3)
        raise UserError(f"{family} size {name!r} is not one of {', '.join(sizes)}{hint}")
    values = dict(sizes[name])
    for key, value in (("vocab_size", vocab_size), ("max_positions", max_positions)):
        if value is not None:
            values[key] = value
        check(key in values, f"{family} size {name!r} has no {key} of its own; give one")
    return make(**values)
