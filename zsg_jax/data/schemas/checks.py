"""What records of every schema are held to: texts that say something, turns in their order."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from zsg_jax.data.formats.jsonl import Refused, json_type
from zsg_jax.data.instance import TOOLS, Turn
from zsg_jax.runtime.settings import setting


class Message(NamedTuple):
    """One message of a record before it is checked; errors call the field of its role `name`."""

    name: str
    role: Any
    content: Any
    more: str = ""
    learned: bool = True

    @property
    def may_follow(self) -> tuple[str, ...]:
        """Roles of the message after this one."""
        if self.role == "tool":
            return "tool", "assistant"
        if self.role == "assistant":
            # A thought that holds the word has its quotation marks escaped.
            return ("tool",) if '"tool_calls":' in self.more else ("user",)
        return ("user", "assistant") if self.role == "system" else ("assistant",)


def field(record: Mapping[str, Any], name: str) -> Any:
    """The value of a field that a record must have; raises Refused without it."""
    if name not in record:
        raise Refused(f'"{name}" is missing (there are: {", ".join(map(repr, record)) or "none"})')
    return record[name]


def text(record: Mapping[str, Any], name: str) -> str:
    """The text of a field; raises Refused where there is none."""
    value = field(record, name)
    check_text(name, value)
    return value


def check_text(name: str, value: Any) -> None:
    """Raises Refused unless `value` is a string that says something and can be written."""
    if not isinstance(value, str):
        raise Refused(f'"{name}" is a JSON {json_type(value)}, not a string')
    if not value.strip():
        raise Refused(f'"{name}" is empty')
    check_unicode(name, value)


def check_unicode(name: str, value: str) -> None:
    """Raises Refused unless `value` can be written: JSON spells halves of a surrogate pair too."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise Refused(
            f'"{name}" holds a lone surrogate, \\u{code:04x}, at character {error.start}'
        ) from None


# The first of these that holds something names a record's choices; P3 has the second.
CHOICES = ("choices", "answer_choices")


def choices(record: Mapping[str, Any], answer: str) -> tuple[str, ...]:
    """What an answer is chosen from: a list of texts, or T0's text "a ||| b"; none without one.

    Raises:
        Refused: if it is no list of two or more texts, or `answer` is none of them, outer white
            space aside.
    """
    name = next((one for one in CHOICES if record.get(one) not in (None, "", [])), None)
    if name is None:
        return ()
    listed = record[name]
    if isinstance(listed, str):
        listed = [one.strip() for one in listed.split("|||")]
    other = f"if it is no list of answers, rename it by {setting('data.fields', f'other={name}')}"
    if not isinstance(listed, list):
        raise Refused(f'"{name}" is a JSON {json_type(listed)}, not a list; {other}')
    for number, one in enumerate(listed):
        check_text(f"{name}[{number}]", one)
    if len(listed) < 2:
        raise Refused(f'"{name}" holds {listed[0]!r} alone; give two or more, or none')
    if answer.strip() not in (one.strip() for one in listed):
        shown = ", ".join(map(repr, listed[:4])) + (", …" if len(listed) > 4 else "")
        raise Refused(f'the answer {answer!r} is none of "{name}" ({shown}); {other}')
    return tuple(listed)


def message_list(name: str, value: Any) -> list[dict[str, Any]]:
    """`value` if it is a list of objects, at least one; raises Refused otherwise."""
    if not isinstance(value, list):
        raise Refused(f'"{name}" is a JSON {json_type(value)}, not a list')
    if not value:
        raise Refused(f'"{name}" is empty')
    for number, message in enumerate(value):
        if not isinstance(message, dict):
            raise Refused(f'"{name}[{number}]" is a JSON {json_type(message)}, not an object')
    return value


def system_turn(record: Mapping[str, Any]) -> list[Turn]:
    """The turn that a record's "system" field makes; none where it is missing or empty."""
    given = record.get("system")
    if not given or (isinstance(given, str) and not given.strip()):
        return []
    return [Turn("system", text(record, "system"))]


def with_system(record: Mapping[str, Any], said: list[Message]) -> list[Message]:
    """Messages behind the turn that the record's "system" makes, if they do not begin with it.

    Raises:
        Refused: where they begin with another system turn.
    """
    for turn in system_turn(record):
        if said[0].role != "system":
            return [Message("system", *turn[:2]), *said]
        if said[0].content.strip() != turn.content.strip():
            raise Refused(
                f'"system" and "{said[0].name}" are two system turns of different texts; leave one '
                f"out, or rename the first by {setting('data.fields', 'other=system')}"
            )
    return said


def refuse_history(record: Mapping[str, Any]) -> None:
    """Raises Refused for a record with earlier turns in "history", which would be lost."""
    if record.get("history"):
        raise Refused(
            '"history" is not read; give the row as messages or conversations, or, if it is no '
            f"earlier turns, rename it by {setting('data.fields', 'other=history')}"
        )


def conversation(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """The turns, if they are a system turn or none, then user and assistant by turns.

    Tools' turns stand behind an answer that calls them, and behind a system turn may stand an
    answer that nobody asked for.

    Raises:
        Refused: for another order.
    """
    expected: tuple[str, ...] = ("system", "user")
    for message in messages:
        if message.role not in expected:
            told = " or ".join(map(repr, expected))
            raise Refused(f'"{message.name}" is {message.role!r} where {told} must stand')
        expected = message.may_follow
    if messages[-1].role == "system":
        raise Refused("a system turn stands alone: nobody asks, and there is no answer to learn")
    return tuple(Turn(*message[1:]) for message in messages)


def tools_turn(record: Mapping[str, Any]) -> list[Turn]:
    """The turn that a record's "tools" make, a list of objects or its JSON text; none without.

    Raises:
        Refused: for what is no such list.
    """
    given = record.get("tools")
    if given in (None, "", []):
        return []
    other = f"if these are no tools, rename them by {setting('data.fields', 'other=tools')}"
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            raise Refused(f'"tools" is a text that holds no JSON; {other}') from None
        if given == []:
            return []
    if not (isinstance(given, list) and all(isinstance(one, dict) for one in given)):
        raise Refused(f'"tools" is no list of objects; {other}')
    return [Turn(TOOLS, json.dumps(given, ensure_ascii=False))]


def answered(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """`turns`, if the last one is an answer, and one is to be learned; raises Refused otherwise."""
    if turns[-1].role != "assistant":
        raise Refused(f"the last turn is by {turns[-1].role!r}: there is no answer to learn")
    if not any(turn.role == "assistant" and turn.learned for turn in turns):
        raise Refused("all answers have weight 0: there is no answer to learn")
    return turns
