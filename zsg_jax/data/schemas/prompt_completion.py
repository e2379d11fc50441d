"""Rows of a prompt and its completion, both texts or both lists of messages, as TRL takes them."""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.checks import Refused, conversation, field, json_type, text
from zsg_jax.data.schemas.messages import said

FIELDS = (("prompt", "completion"),)
TASK = ("task", "task_name", "task_id")


def turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The prompt's turns, then the completion's.

    Raises:
        Refused: if one is a text and the other a list, or if they make no conversation that ends
            in an answer.
    """
    prompt, completion = field(row, "prompt"), field(row, "completion")
    if isinstance(prompt, list) != isinstance(completion, list):
        raise Refused(
            f'"prompt" is a JSON {json_type(prompt)} and "completion" a {json_type(completion)}; '
            "both must be strings, or both lists of messages"
        )
    if isinstance(prompt, list):
        return conversation(said("prompt", prompt) + said("completion", completion))
    return Turn("user", text(row, "prompt")), Turn("assistant", text(row, "completion"))
