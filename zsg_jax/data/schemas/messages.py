"""Rows of `messages`, a list of turns with role and content, as chat programs exchange them."""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.checks import Refused, Said, check_text, conversation, field, message_list

FIELDS = (("messages",),)
TASK = ("task",)


def turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of a row.

    Raises:
        Refused: if they are no conversation that ends in an answer.
    """
    return parse_turns(field(row, "messages"))


def parse_turns(messages: Any) -> tuple[Turn, ...]:
    """The turns of a row's "messages"; raises as `turns` does."""
    return conversation(said("messages", messages))


def said(name: str, messages: Any) -> list[Said]:
    """The messages that stand under `name`, each with its text checked; raises Refused."""
    found = []
    for number, message in enumerate(message_list(name, messages)):
        place = f"{name}[{number}]"
        for key in ("role", "content"):
            if key not in message:
                raise Refused(f'"{place}.{key}" is missing')
        check_text(f"{place}.content", message["content"])
        found.append(Said(f"{place}.role", message["role"], message["content"]))
    return found
