"""Checks of the fields that a model's config holds."""

import math
from dataclasses import fields
from typing import Any

from zsg_jax.runtime.errors import check

# Of what a model's arrays are made one by one: no more of them than any model has.
_MOST = {"num_layers": 10_000, "experts": 10_000}


def check_fields(name: str, config: Any) -> None:
    """Checks the fields of a dataclass that are declared int, float or bool.

    An int is a whole number above 0 (`vocab_padding` may be 0), a float any finite one above 0.

    Raises:
        UserError: naming the model as `name`, the field and its value.
    """
    for field in fields(config):
        value, given = getattr(config, field.name), f"{name}: {field.name}={{!r}}".format
        if field.type is bool:
            check(isinstance(value, bool), f"{given(value)}; give True or False")
        elif field.type is int:
            least = int(field.name != "vocab_padding")
            whole = isinstance(value, int) and not isinstance(value, bool)
            check(
                whole and value >= least, f"{given(value)}; give a whole number above {least - 1}"
            )
            most = _MOST.get(field.name, value)
            check(value <= most, f"{given(value)}; it must be at most {most:,}")
        elif field.type is float or (field.type == float | None and value is not None):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            check(number and 0 < value < math.inf, f"{given(value)}; give a number above 0")


def check_divides(name: str, config: Any, whole: str, divisor: str) -> None:
    """Checks that one field is a multiple of another; `UserError` names both."""
    check(
        getattr(config, whole) % getattr(config, divisor) == 0,
        f"{name}: {whole}={getattr(config, whole)} is no multiple of "
        f"{divisor}={getattr(config, divisor)}; give a {divisor} that divides it",
    )
