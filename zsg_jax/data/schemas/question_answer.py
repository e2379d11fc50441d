"""Rows of a question and its answer."""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.checks import text

FIELDS = (("question", "answer"),)
TASK = ("task", "task_name", "task_id")


def turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The question, then the answer; raises Refused where one is missing or says nothing."""
    return Turn("user", text(row, "question")), Turn("assistant", text(row, "answer"))
