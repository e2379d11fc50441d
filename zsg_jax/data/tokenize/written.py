"""Whether a chat template writes what rows hold besides words: tools, calls, results, thoughts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zsg_jax.data.instance import THOUGHTS, TOOLS
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.truncation import Unfit

Messages = Sequence[Mapping[str, Any]]
_WAY_OUT = "give a template that does, or rows without it"


def check_written(messages: Messages, template: ChatTemplate, special_texts: Sequence[str]) -> None:
    """Checks that the text tells each tool, call, result and thought from another.

    A thought need only be written while its answer is the last one.

    Args:
        messages: as `ChatTemplate.render` takes them.
        special_texts: special tokens, which none of these may spell.

    Raises:
        Unfit: the template leaves one out, or one spells a special token.
    """
    written: dict[int, str] = {}
    for what, held, others in _changes(messages):
        for special in special_texts:
            if special in held:
                raise Unfit(f"{what} spells the special token {special!r}")
        shown = len(others)
        if shown not in written:
            written[shown] = _written(messages[:shown], template)
        if written[shown] == _written(others, template):
            raise Unfit(f"it does not write {what}; {_WAY_OUT}")


def _written(messages: Messages, template: ChatTemplate) -> str:
    try:
        return template.render(messages, prompt=messages[-1]["role"] != "assistant")
    except Unfit as refusal:
        return str(refusal)


def _changes(messages: Messages) -> Iterator[tuple[str, str, Messages]]:
    """Of every thing that must be written its name, its text, and messages with another one.

    They may be fewer: as many as must be shown for it to be written.
    """
    for number, message in enumerate(messages):
        before, after = messages[:number], messages[number + 1 :]
        if message["role"] == TOOLS:
            tools = json.loads(message["content"])
            for at, tool in enumerate(tools):
                fewer = json.dumps([*tools[:at], *tools[at + 1 :]])
                others = [*before, {**message, "content": fewer}, *after]
                yield f"tool {at + 1} of the row", json.dumps(tool, ensure_ascii=False), others
        elif message["role"] == "tool":
            others = [*before, {**message, "content": f"a{message['content']}"}, *after]
            # Special tokens in words are told from those of the template elsewhere.
            yield f"the tool's turn {number + 1}", "", others
        for key in (one for one in THOUGHTS if one in message):
            others = [*before, {**message, key: f"a {message[key]}"}]
            yield f"the {key} of turn {number + 1}", message[key], others
        calls = message.get("tool_calls", [])
        for at, call in enumerate(calls):
            for changed in _other_calls(call):
                changed_calls = [*calls[:at], changed, *calls[at + 1 :]]
                others = [*before, {**message, "tool_calls": changed_calls}, *after]
                yield f"call {at + 1} of turn {number + 1}", json.dumps(call), others


def _other_calls(call: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The call of another function, and that with another argument."""
    function = call.get("function", call)
    for changes in (
        {"name": f"a{function['name']}"},
        {"arguments": {**function.get("arguments", {}), "a": "a"}},
    ):
        changed = {**function, **changes}
        yield {**call, "function": changed} if "function" in call else changed
