"""Records that hold no one answer to learn: prompts alone, preferences, plain texts."""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.formats.jsonl import Refused, json_type
from zsg_jax.data.instance import TEXT, Turn
from zsg_jax.data.schemas.checks import (
    Message,
    conversation,
    field,
    refuse_history,
    text,
    tools_turn,
    with_system,
)
from zsg_jax.data.schemas.conversations import role_and_content


def prompt(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of "prompt", a text or a list of messages, which end in a question.

    Raises:
        Refused: if they are none, or end in an answer.
    """
    return (*tools_turn(record), *conversation(_asked(record)))


def preference(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of "prompt" and "chosen", texts or lists of messages, as TRL takes them.

    The list "chosen" may begin with the prompt's messages, and a text "chosen" without "prompt"
    holds both: it is one plain text here. "rejected" is checked, and no turn is made of it.

    Raises:
        Refused: if they are none, "rejected" is of another kind than "chosen", or a list "chosen"
            does not end in an answer.
    """
    chosen, rejected = field(record, "chosen"), field(record, "rejected")
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise Refused(
            f'"chosen" is a JSON {json_type(chosen)} and "rejected" a {json_type(rejected)}; both '
            "must be strings, or both lists of messages"
        )
    if not isinstance(chosen, list):
        answer = text(record, "chosen")
        text(record, "rejected")
        if record.get("prompt") in (None, "", []):
            return (Turn(TEXT, answer),)
        said = [*_asked(record), Message("chosen", "assistant", answer)]
        return (*tools_turn(record), *conversation(said))
    turns = role_and_content("chosen", chosen)
    role_and_content("rejected", rejected)
    if turns[0].role == "assistant":
        turns = _asked(record) + turns
    else:
        turns = with_system(record, turns)
    if turns[-1].role != "assistant":
        raise Refused(f'"chosen" ends with a turn by {turns[-1].role!r}, not with an answer')
    return (*tools_turn(record), *conversation(turns))


def plain_text(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """One turn of "text", which nobody in particular speaks; raises Refused."""
    return (Turn(TEXT, text(record, "text")),)


def _asked(record: Mapping[str, Any]) -> list[Message]:
    """The messages of "prompt", which must leave the answer to come."""
    given = field(record, "prompt")
    if not isinstance(given, list):
        refuse_history(record)
        return with_system(record, [Message("prompt", "user", text(record, "prompt"))])
    asked = role_and_content("prompt", given)
    if asked[-1].role == "assistant":
        raise Refused('"prompt" ends with an answer; give the row as messages')
    return with_system(record, asked)
