"""Records that hold a conversation: lists of messages, and those of ShareGPT."""

import json
from collections.abc import Mapping
from typing import Any

from zsg_jax.data.formats.jsonl import Refused, json_type
from zsg_jax.data.instance import THOUGHTS, TOOLS, Turn
from zsg_jax.data.schemas.checks import (
    Message,
    check_text,
    conversation,
    field,
    message_list,
    system_turn,
    tools_turn,
    with_system,
)

# Who speaks, as ShareGPT's many descendants call it.
ROLES = {
    **dict.fromkeys(("human", "user", "prompter"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
}


def messages(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of "messages", a list of role and content; "system" may stand beside it.

    Raises:
        Refused: if they are no conversation.
    """
    said = with_system(record, role_and_content("messages", field(record, "messages")))
    return (*tools_turn(record), *conversation(said))


def role_and_content(name: str, value: Any) -> list[Message]:
    """The messages that stand under `name`, each with its text checked; raises Refused."""
    found = []
    for number, message in enumerate(message_list(name, value)):
        here = f"{name}[{number}]"
        if "role" not in message:
            raise Refused(f'"{here}.role" is missing')
        role = message["role"]
        more = _more(here, message, role)
        content = message.get("content")
        if "tool_calls" in more and content in (None, "", []):
            content = ""
        elif "content" not in message:
            raise Refused(f'"{here}.content" is missing')
        else:
            content = joined_parts(f"{here}.content", content)
            check_text(f"{here}.content", content)
        learned = _learned(here, message) or role != "assistant"
        found.append(Message(f"{here}.role", role, content, _json(more), learned))
    return found


def joined_parts(name: str, content: Any) -> Any:
    """Of a list of parts their texts, one after the other; what is no list as it is.

    Raises:
        Refused: for a part that is no text.
    """
    if not isinstance(content, list):
        return content
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            told = kind not in (None, "text")
            what = f"of type {kind!r}" if told else f"a JSON {json_type(part)} without a text"
            raise Refused(
                f'"{name}[{number}]" is {what}; of parts only texts are read, as '
                '{"type": "text", "text": "…"}'
            )
    return "".join(part["text"] for part in content)


def _json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False) if fields else ""


def _more(name: str, message: Mapping[str, Any], role: Any) -> dict[str, Any]:
    """The fields of a message, besides its content, that are read; raises Refused for others."""
    read: tuple[str, ...] = ("name", "tool_call_id") if role == "tool" else ()
    if role == "assistant":
        read = ("tool_calls", *THOUGHTS)
    _refuse_unread(name, message, read)
    more = {key: message[key] for key in read if message.get(key)}
    for key in more.keys() & {*THOUGHTS}:
        check_text(f"{name}.{key}", more[key])
    if "tool_calls" in more:
        given = message_list(f"{name}.tool_calls", more["tool_calls"])
        more["tool_calls"] = [
            _call(f"{name}.tool_calls[{number}]", one) for number, one in enumerate(given)
        ]
    return more


def _call(name: str, call: Mapping[str, Any]) -> dict[str, Any]:
    """A call, its arguments as an object, which OpenAI's records have as JSON text."""
    made = {key: one for key, one in call.items() if one is not None}
    function = made.get("function", made)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Refused(f'"{name}" names no function; give {{"function": {{"name": …}}}}')
    given = function.get("arguments")
    if given is None or isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except ValueError:
            given = None
    if not isinstance(given, dict):
        raise Refused(f'"{name}": its arguments are no JSON object')
    function = {**function, "arguments": given}
    return {**made, "function": function} if "function" in made else function


# Fields that chat templates write, and by which trainers leave an answer out of the loss.
_WRITTEN = (
    *("name", "reasoning", *THOUGHTS),
    *("tool_calls", "tool_call_id", "function_call"),
)
_UNLEARNED = ("weight", "train", "training")


def _refuse_unread(name: str, message: Mapping[str, Any], read: tuple[str, ...] = ()) -> None:
    """Raises Refused for a field, none of `read`, that would change what is written."""
    for key in _WRITTEN:
        if message.get(key) and key not in read:
            raise Refused(
                f'"{name}.{key}" holds what a chat template may write, and is not read; take it '
                "out of the row, or write it into the content"
            )


def _learned(name: str, message: Mapping[str, Any]) -> bool:
    """Whether a message may carry loss; raises Refused for a weight between none and all."""
    for key in _UNLEARNED:
        if message.get(key) not in (None, 0, 1):
            raise Refused(f'"{name}.{key}" is {message[key]!r}; it must be 0 or 1, false or true')
    return all(message.get(key) in (None, 1) for key in _UNLEARNED)


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
        content = joined_parts(f"{name}.{what}", message[what])
        learned = _learned(name, message) or ROLES[role] != "assistant"
        one = Message(f"{name}.{who}", ROLES[role], content, learned=learned)
        found.append((f"{name}.{what}", one))
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
    said = with_system(record, [one for _, one in head + rest])
    return (*tools_turn(record), *conversation(said))


def _answers(found: tuple[str, Message]) -> bool:
    return found[1].role == "assistant"


def sharegpt_left_out(record: Mapping[str, Any], turns: tuple[Turn, ...]) -> int:
    """How many turns of a record `sharegpt` leaves out."""
    said = sum(turn.role != TOOLS for turn in turns)
    first = record["conversations"][0]
    own = ROLES[first.get("from", first.get("role"))] == "system"
    return len(record["conversations"]) + (0 if own else len(system_turn(record))) - said
