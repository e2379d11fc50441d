"""Rows of inputs and targets, as P3 and Flan have them; texts stay as they are, spaces included."""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.checks import text

# Beside the texts that were tokenized, P3 has "inputs" and "targets" too, as lists of token ids.
FIELDS = (("inputs_pretokenized", "targets_pretokenized"), ("inputs", "targets"))
TASK = ("task", "task_name", "task_id")


def turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The inputs, then the targets; raises Refused where one is missing or says nothing."""
    pretokenized = any(name in row for name in FIELDS[0])
    inputs, targets = FIELDS[0] if pretokenized else FIELDS[1]
    return Turn("user", text(row, inputs)), Turn("assistant", text(row, targets))
