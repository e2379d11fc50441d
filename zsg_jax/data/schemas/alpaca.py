"""Rows of an instruction, perhaps with an input, and an output, as Alpaca has them."""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.checks import Refused, check_text, one_system, text

FIELDS = (("instruction", "output"),)
TASK = ("task", "task_name", "task_id")


def turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The instruction, a blank line and the input where there is one; then the output.

    Raises:
        Refused: for a missing or empty instruction or output, an input that is no text, and for
            earlier turns, which this would lose.
    """
    prompt, answer = text(row, "instruction"), text(row, "output")
    if row.get("history"):
        raise Refused('"history" is not read; give the row as messages or conversations')
    given = row.get("input") or ""
    if not isinstance(given, str) or given.strip():
        check_text("input", given)
        prompt = f"{prompt}\n\n{given}"
    return (*one_system(row), Turn("user", prompt), Turn("assistant", answer))
