"""Records of a prompt and an answer under names of their own."""

from collections.abc import Mapping
from typing import Any

from zsg_jax.data.formats.jsonl import Refused, json_type
from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.checks import (
    answered,
    check_text,
    conversation,
    field,
    refuse_history,
    system_turn,
    text,
    tools_turn,
    with_system,
)
from zsg_jax.data.schemas.conversations import role_and_content

# Beside the texts that were tokenized, P3 has "inputs" and "targets" too, as lists of token ids.
PRETOKENIZED = ("inputs_pretokenized", "targets_pretokenized")


def alpaca(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The instruction, a blank line and the input where there is one; then the output.

    Raises:
        Refused: for a missing or empty instruction or output, an input that is no text, and for
            earlier turns, which this would lose.
    """
    prompt, answer = text(record, "instruction"), text(record, "output")
    given = record.get("input")
    if given not in (None, [], {}) and not (isinstance(given, str) and not given.strip()):
        check_text("input", given)
        prompt = f"{prompt}\n\n{given}"
    return _turns(record, prompt, answer)


def prompt_completion(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The prompt's turns, then the completion's: both texts or both messages, as TRL takes them.

    Raises:
        Refused: if one is a text and the other a list, or if they make no conversation that ends
            in an answer.
    """
    prompt, completion = field(record, "prompt"), field(record, "completion")
    if isinstance(prompt, list) != isinstance(completion, list):
        raise Refused(
            f'"prompt" is a JSON {json_type(prompt)} and "completion" a {json_type(completion)}; '
            "both must be strings, or both lists of messages"
        )
    if isinstance(prompt, list):
        asked = with_system(record, role_and_content("prompt", prompt))
        both = asked + role_and_content("completion", completion)
        return answered((*tools_turn(record), *conversation(both)))
    return _pair(record, "prompt", "completion")


def question_answer(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The question, then the answer; raises Refused where one is missing or says nothing."""
    return _pair(record, "question", "answer")


def inputs_targets(record: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The inputs, then the targets, spaces included, as P3 and Flan have them; raises Refused."""
    if any(name in record for name in PRETOKENIZED):
        return _pair(record, *PRETOKENIZED)
    return _pair(record, "inputs", "targets")


def _pair(record: Mapping[str, Any], prompt: str, answer: str) -> tuple[Turn, ...]:
    return _turns(record, text(record, prompt), text(record, answer))


def _turns(record: Mapping[str, Any], prompt: str, answer: str) -> tuple[Turn, ...]:
    """Prompt and answer, behind the record's tools and system turn; raises Refused."""
    refuse_history(record)
    turns = Turn("user", prompt), Turn("assistant", answer)
    return (*tools_turn(record), *system_turn(record), *turns)
