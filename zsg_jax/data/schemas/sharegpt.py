"""Rows of `conversations`, as ShareGPT and Flan-mini have them: turns with from and value.

Conversations that people shared often begin in the middle, with an answer, or end with a question.
An answer at the start answers nothing that the row shows, and a question at the end has no answer:
such turns are left out and the rest is kept, as trainers of such data do; rows so cut are counted.
"""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.checks import (
    Refused,
    Said,
    check_text,
    conversation,
    field,
    message_list,
    one_system,
)

FIELDS = (("conversations",),)
# Flan-mini tells in "source" what collection a row is from.
TASK = ("task", "task_name", "task_id", "source")

ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
}


def turns(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of a row; "role" and "content" do as well as "from" and "value".

    Raises:
        Refused: for a speaker that is none of `ROLES`, or turns that are no conversation with an
            answer.
    """
    said = []
    for number, message in enumerate(message_list("conversations", field(row, "conversations"))):
        place = f"conversations[{number}]"
        who, what = ("from", "value") if "from" in message else ("role", "content")
        for key, name in ((who, "from"), (what, "value")):
            if key not in message:
                raise Refused(f'"{place}.{name if who == "role" else key}" is missing')
        role = message[who]
        if not isinstance(role, str) or role not in ROLES:
            raise Refused(f'"{place}.{who}" is {role!r}, which is none of {", ".join(ROLES)}')
        said.append((f"{place}.{what}", Said(f"{place}.{who}", ROLES[role], message[what])))
    head = said[:1] if said[0][1].role == "system" else []
    rest = said[len(head) :]
    while rest and rest[0][1].role == "assistant":
        rest.pop(0)
    while rest and rest[-1][1].role == "user":
        rest.pop()
    if not rest:
        raise Refused("no turn answers another: there is no answer to learn")
    for name, one in head + rest:
        check_text(name, one.content)
    system = one_system(row)
    if system and head:
        raise Refused('"system" stands beside a system turn in "conversations"; leave one out')
    return (*system, *conversation([one for _, one in head + rest]))


def left_out(row: Mapping[str, Any], turns: tuple[Turn, ...]) -> int:
    """How many turns of a row `turns` does without."""
    return len(row["conversations"]) + bool(row.get("system")) - len(turns)
