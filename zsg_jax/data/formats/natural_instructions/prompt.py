"""The prompt of Natural Instructions, held within a number of tokens (arXiv 2406.11721, data)."""

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from zsg_jax.data.formats.natural_instructions.options import Form
from zsg_jax.data.tokenize.tokenizer import Encoding

Encode = Callable[[Sequence[str]], list[Encoding]]


class Parts(NamedTuple):
    """A prompt in its pieces; its text is all of them, one after another."""

    head: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    tail: str

    @property
    def text(self) -> str:
        """The prompt."""
        return "".join((self.head, *self.positive, *self.negative, self.tail))


class Fitted(NamedTuple):
    """A prompt within the limit, what was left out of it, and whether it was cut besides."""

    text: str
    examples_left_out: int = 0
    cut: bool = False


def parts(name: str, task: Mapping[str, Any], instance: Mapping[str, Any], form: Form) -> Parts:
    """The task's name, the definition, examples and the input, as far as `form` wants them.

    Only the definition is closed with a full stop. Of several definitions the first is shown.
    """
    head = f"{name}. " if form.task_name else ""
    if form.definition:
        definition = task["Definition"]
        text = (definition if isinstance(definition, str) else definition[0]).strip()
        head += f"Definition: {text}{'' if text[-1] in string.punctuation else '.'}\n\n"
    return Parts(
        head,
        _examples("Positive", task, form.positive, form.explanation),
        _examples("Negative", task, form.negative, form.explanation),
        f"Now complete the following example -\nInput: {instance['input'].strip()}\nOutput: ",
    )


def fit(prompts: Sequence[Parts], limit: int, encode: Encode) -> list[Fitted]:
    """Holds prompts within `limit` tokens each; bos and eos are not counted.

    Positive examples are added one by one as long as the prompt stays within the limit, then
    negative ones; one that would pass it is left out with all that follow it. What is too long
    without any example is cut at the tail.
    """
    # What is not Unicode has no tokens; the row is refused for it later.
    sound = [one for one in prompts if _is_unicode(one.text)]
    lengths = (len(encoding.ids) for encoding in encode([one.text for one in sound]))
    fits = {one: length <= limit for one, length in zip(sound, lengths, strict=True)}
    return [
        Fitted(one.text) if fits.get(one, True) else _shortened(one, limit, encode)
        for one in prompts
    ]


def _shortened(prompt: Parts, limit: int, encode: Encode) -> Fitted:
    def longest(candidates: list[Parts]) -> Parts:
        kept = candidates[0]
        for candidate in candidates[1:]:
            if len(encode([candidate.text])[0].ids) > limit:
                break
            kept = candidate
        return kept

    positive, negative = prompt.positive, prompt.negative
    bare = prompt._replace(positive=(), negative=())
    kept = longest([bare._replace(positive=positive[:n]) for n in range(len(positive) + 1)])
    kept = longest([kept._replace(negative=negative[:n]) for n in range(len(negative) + 1)])
    left_out = len(positive + negative) - len(kept.positive + kept.negative)
    text = _cut(kept.text, limit, encode)
    return Fitted(text, left_out, text != kept.text)


def _cut(text: str, limit: int, encode: Encode) -> str:
    """The longest run of whole characters from the start that stays within `limit` tokens."""
    while len(spans := encode([text])[0].spans) > limit:
        # What is left may be encoded otherwise, and a character may be several tokens: once more.
        text = text[: min(int(spans[limit - 1, 1]), len(text) - 1)]
    return text


def _examples(
    label: str, task: Mapping[str, Any], number: int, explanation: bool
) -> tuple[str, ...]:
    examples = []
    for index, example in enumerate((task.get(f"{label} Examples") or [])[:number], start=1):
        reason = (example.get("explanation") or "").strip() if explanation else ""
        examples.append(
            f" {label} Example {index} -\n"
            f"Input: {example['input'].strip()}\n"
            f" Output: {example['output'].strip()}\n"
            + (f" Explanation: {reason}\n" if reason else "")
            + "\n"
        )
    return tuple(examples)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
