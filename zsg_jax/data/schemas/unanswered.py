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
from zsg_jax.runtime.settings import setting


def prompt(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of "prompt", a text or a list of messages, which end in a question.

    Raises:
        Refused: if they are none, or end in an answer.
    """
    return (*tools_turn(record), *conversation(_asked(record)))


def preference(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of "prompt" and "chosen", texts or lists of messages, as TRL takes them.

    "prompt" may go by a name of `_PROMPTS`. The list "chosen" may begin with the prompt's messages,
    and a text "chosen" without any holds both: it is one plain text here. "rejected" is checked,
    and no turn is made of it.

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
        name = _prompt_name(record)
        if name is None:
            _refuse_lost(record)
            return (Turn(TEXT, answer),)
        said = [*_asked(record, name), Message("chosen", "assistant", answer)]
        return (*tools_turn(record), *conversation(said))
    turns = role_and_content("chosen", chosen)
    role_and_content("rejected", rejected)
    if turns[0].role == "assistant":
        turns = _asked(record, _prompt_name(record) or "prompt") + turns
    else:
        turns = with_system(record, turns)
    if turns[-1].role != "assistant":
        raise Refused(f'"chosen" ends with a turn by {turns[-1].role!r}, not with an answer')
    return (*tools_turn(record), *conversation(turns))


def plain_text(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """One turn of "text", which nobody in particular speaks; raises Refused."""
    return (Turn(TEXT, text(record, "text")),)


# What the prompt of preferences is called elsewhere; an instruction may have an input behind it.
_PROMPTS = ("question", "instruction", "input", "inputs")


def _says(record: Mapping[str, Any], name: str) -> bool:
    given = record.get(name)
    return bool(given.strip() if isinstance(given, str) else given)


def _prompt_name(record: Mapping[str, Any]) -> str | None:
    """The field that holds the prompt of a preference; None where "chosen" holds it.

    Raises:
        Refused: several could be it, or the one of another name is neither text nor messages.
    """
    if record.get("prompt") not in (None, "", []):
        return "prompt"
    named = [name for name in _PROMPTS if _says(record, name)]
    texts = all(isinstance(record[name], str) for name in named)
    if len(named) > 1 and not (texts and named == ["instruction", "input"]):
        both = " and ".join(f'"{name}"' for name in named)
        way_out = setting("data.fields", f"prompt={named[0]}")
        raise Refused(f"{both} could each be the prompt; name it by the like of {way_out}")
    for name in named[:1]:
        if not isinstance(record[name], str | list):
            other = setting("data.fields", f"other={name}")
            told = json_type(record[name])
            raise Refused(f'"{name}" is a JSON {told}; if it is no prompt, rename it by {other}')
        return name
    return None


def _refuse_lost(record: Mapping[str, Any]) -> None:
    """Raises Refused for what would stand before a prompt, where a text holds prompt and answer."""
    lost = [name for name in ("system", "tools", "history") if _says(record, name)]
    if lost:
        others = ",".join(f"other_{name}={name}" for name in lost)
        names = " and ".join(f'"{name}"' for name in lost)
        raise Refused(
            f"there is no prompt behind {names}; name it by {setting('data.fields', 'prompt=OLD')}"
            f', or, if "chosen" holds it too, rename {names} by {setting("data.fields", others)}'
        )


def _asked(record: Mapping[str, Any], name: str = "prompt") -> list[Message]:
    """The messages of the prompt, in the field `name`, which must leave the answer to come."""
    given = field(record, name)
    if isinstance(given, list):
        asked = role_and_content(name, given)
        if asked[-1].role == "assistant":
            raise Refused(f'"{name}" ends with an answer; give the row as messages')
        return with_system(record, asked)
    refuse_history(record)
    said = text(record, name)
    if name == "instruction" and _says(record, "input"):
        said = f"{said}\n\n{text(record, 'input')}"
    return with_system(record, [Message(name, "user", said)])
