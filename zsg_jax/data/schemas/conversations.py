"""Records that hold a conversation: lists of messages, and those of ShareGPT."""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.formats.jsonl import Refused
from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.checks import (
    Message,
    check_text,
    conversation,
    field,
    message_list,
    system_turn,
)
from zsg_jax.runtime.settings import setting

# Who speaks, as ShareGPT's many descendants call it.
ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
}


def messages(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of "messages", a list of role and content.

    Raises:
        Refused: if they are no conversation.
    """
    return conversation(role_and_content("messages", field(record, "messages")))


def role_and_content(name: str, value: Any) -> list[Message]:
    """The messages that stand under `name`, each with its text checked; raises Refused."""
    found = []
    for number, message in enumerate(message_list(name, value)):
        for key in ("role", "content"):
            if key not in message:
                raise Refused(f'"{name}[{number}].{key}" is missing')
        _refuse_unread(f"{name}[{number}]", message)
        check_text(f"{name}[{number}].content", message["content"])
        found.append(Message(f"{name}[{number}].role", message["role"], message["content"]))
    return found


# Fields that chat templates write, and by which trainers leave an answer out of the loss.
_WRITTEN = (
    *("name", "reasoning", "reasoning_content", "thinking"),
    *("tool_calls", "tool_call_id", "function_call"),
)
_UNLEARNED = ("weight", "train", "training")


def _refuse_unread(name: str, message: Mapping[str, Any]) -> None:
    """Raises Refused for a field that would change what is written or learned of a message."""
    for key in _WRITTEN:
        if message.get(key):
            raise Refused(
                f'"{name}.{key}" holds what a chat template may write, and is not read; take it '
                "out of the row, or write it into the content"
            )
    for key in _UNLEARNED:
        if key in message and message[key] in (0, False):
            raise Refused(
                f'"{name}.{key}" is {message[key]!r}, so that this turn is not to be learned; end '
                f"the row before it, or pass {setting('data.answers', 'last')} and leave it out"
            )


def sharegpt(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of "conversations", a list of from and value, or of role and content.

    Conversations that people shared often begin in the middle, with an answer, or end with a
    question. An answer at the start answers nothing that the record shows, and a question at the
    end has no answer: such turns are left out and the rest is kept, as trainers of such data do.
    Where there is no answer at all, the record is a prompt alone.

    Raises:
        Refused: for a speaker that is none of `ROLES`, or turns that are no conversation.
    """
    found = []
    for number, message in enumerate(message_list("conversations", field(record, "conversations"))):
        name = f"conversations[{number}]"
        openai = "role" in message and "from" not in message
        who, what = ("role", "content") if openai else ("from", "value")
        for key in (who, what):
            if key not in message:
                raise Refused(f'"{name}.{key}" is missing')
        _refuse_unread(name, message)
        role = message[who]
        if not isinstance(role, str) or role not in ROLES:
            raise Refused(f'"{name}.{who}" is {role!r}, which is none of {", ".join(ROLES)}')
        found.append((f"{name}.{what}", Message(f"{name}.{who}", ROLES[role], message[what])))
    head = found[:1] if found[0][1].role == "system" else []
    rest = found[len(head) :]
    while rest and rest[0][1].role == "assistant":
        rest.pop(0)
    while rest[-1:] and rest[-1][1].role == "user" and any(_answers(one) for one in rest):
        rest.pop()
    if not rest:
        raise Refused("no turn answers another: there is no answer to learn")
    for name, one in head + rest:
        check_text(name, one.content)
    system = system_turn(record)
    if system and head:
        raise Refused('"system" stands beside a system turn in "conversations"; leave one out')
    return (*system, *conversation([one for _, one in head + rest]))


def _answers(found: tuple[str, Message]) -> bool:
    return found[1].role == "assistant"


def sharegpt_left_out(record: Mapping[str, Any], turns: tuple[Turn, ...]) -> int:
    """How many turns of a record `sharegpt` leaves out."""
    return len(record["conversations"]) + bool(record.get("system")) - len(turns)
