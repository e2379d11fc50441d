"""The prompt of Natural Instructions, held within a number of tokens (arXiv 2406.11721, data)."""

import string
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from zsg_jax.data.formats.jsonl import is_unicode
from zsg_jax.data.formats.natural_instructions.options import PromptForm
from zsg_jax.data.tokenize.tokenizer import Tokenizer


class Parts(NamedTuple):
    """A prompt in its pieces; its text is all of them, one after another."""

    name: str
    definition: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    tail: str

    @property
    def text(self) -> str:
        """The prompt."""
        return "".join((self.name, self.definition, *self.positive, *self.negative, self.tail))

    def counted(self, example: str = "") -> str:
        """What the study counts the tokens of before it takes in one more example.

        The task's name is missing in it, and a blank stands between two examples.
        """
        shown = " ".join(self.positive) + " ".join(self.negative)
        return self.definition + shown + example + self.tail


class Fitted(NamedTuple):
    """A prompt within the limit, what was left out of it, and whether it was cut besides."""

    text: str
    examples_left_out: int = 0
    cut: bool = False


def parts(
    name: str, task: Mapping[str, Any], instance: Mapping[str, Any], form: PromptForm
) -> Parts:
    """The task's name, the definition, examples and the input, as far as `form` wants them.

    Each is stripped, and closed with a full stop unless it ends in ASCII punctuation. Of several
    definitions the first is shown.
    """
    definition = ""
    if form.definition:
        first = task["Definition"]
        first = first if isinstance(first, str) else first[0]
        definition = _closed("Definition: ", first) + "\n"
    return Parts(
        f"{name}. " if form.task_name else "",
        definition,
        _examples("Positive", task, form.positive, form.explanation),
        _examples("Negative", task, form.negative, form.explanation),
        "Now complete the following example -\n"
        + _closed("Input: ", instance["input"])
        + "Output: ",
    )


def fit(prompts: Sequence[Parts], limit: int, tokenizer: Tokenizer) -> list[Fitted]:
    """Holds prompts within `limit` tokens each, with what the tokenizer adds by itself, as bos.

    Positive examples are added one by one as long as `Parts.counted` stays within the limit, then
    negative ones; one that would pass it is left out with all that follow of its kind. What is
    still too long is cut to `limit` tokens and decoded.
    """
    # What is not Unicode has no tokens; the record is refused for it later.
    sound = [one for one in prompts if is_unicode(one.text)]
    lengths = _lengths([one.name + one.counted() for one in sound], tokenizer)
    fits = {one: length <= limit for one, length in zip(sound, lengths, strict=True)}
    return [
        Fitted(one.text) if fits.get(one, True) else _shortened(one, limit, tokenizer)
        for one in prompts
    ]


def _shortened(prompt: Parts, limit: int, tokenizer: Tokenizer) -> Fitted:
    kept = prompt._replace(positive=(), negative=())
    for example in prompt.positive:
        if _lengths([kept.counted(example)], tokenizer)[0] > limit:
            break
        kept = kept._replace(positive=(*kept.positive, example))
    for example in prompt.negative:
        if _lengths([kept.counted(example)], tokenizer)[0] > limit:
            break
        kept = kept._replace(negative=(*kept.negative, example))
    left_out = len(prompt.positive + prompt.negative) - len(kept.positive + kept.negative)
    ids = tokenizer.encode([kept.text])[0].ids.tolist()
    if len(ids) + sum(tokenizer.added) <= limit:
        return Fitted(kept.text, left_out)
    return Fitted(tokenizer.decode(ids[: max(limit - tokenizer.added[0], 0)]), left_out, True)


def _lengths(texts: Sequence[str], tokenizer: Tokenizer) -> list[int]:
    return [len(one.ids) + sum(tokenizer.added) for one in tokenizer.encode(texts)]


def _examples(
    label: str, task: Mapping[str, Any], number: int, explanation: bool
) -> tuple[str, ...]:
    examples = []
    for index, example in enumerate((task.get(f"{label} Examples") or [])[:number], start=1):
        shown = _closed("Input: ", example["input"]) + _closed(" Output: ", example["output"])
        reason = example.get("explanation") if explanation else None
        if reason is not None:
            shown += _closed(" Explanation: ", reason)
        examples.append(f" {label} Example {index} -\n{shown}\n")
    return tuple(examples)


def _closed(label: str, text: str) -> str:
    """One line of a prompt; an empty text becomes a full stop alone."""
    line = label + text.strip()
    return line + ("\n" if line[-1] in string.punctuation else ".\n")
