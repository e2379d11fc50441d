"""A conversation under a chat template: its tokens, and exactly which of them are answers.

Where the template has `{% generation %}` blocks, they say what is learned. Elsewhere an answer is
what the template writes after the prompt: the text up to the answer, rendered with the generation
prompt, must be the beginning of the text with the answer, and that the beginning of the whole
text; the answer's words must follow at once, white space aside. The mask then runs from there to
the end of what closes the answer (<|im_end|>, <|eot_id|>, </s>), without white space behind that,
which belongs to the next turn. The same is asked of the tokens: those of the prompt must be the
first of the row. Whatever fails one of these is `Unfit`, and no guess is made.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.data.tokenize.jinja import MARK, MARK_END, ChatTemplate
from zsg_jax.data.tokenize.tokenizer import Encoding, Tokenizer
from zsg_jax.data.tokenize.truncation import TokenizedExample, Unfit, holds_words

# Around a turn's words, its number first; kept for use inside a program, as MARK is.
_OPEN, _NUMBER_END, _CLOSE = "\ufdd2", "\ufdd3", "\ufdd4"
_SIGNS = re.compile(f"{_OPEN}([0-9]+){_NUMBER_END}|([{_CLOSE}{MARK}{MARK_END}])")
_RESERVED = re.compile(f"[{MARK}-{_CLOSE}]")


class Rendering(NamedTuple):
    """A conversation as text.

    Attributes:
        text: as the template writes it.
        answers: characters [start, end) of each answer that is learned, in order.
        prompts: the text before each answer, to be checked on the tokens; none where the template
            marks answers itself.
        words: (turn, start, end) of the text that stands in a turn; None where it cannot be told.
    """

    text: str
    answers: list[tuple[int, int]]
    prompts: list[str]
    words: list[tuple[int, int, int]] | None


def render(instance: Instance, template: ChatTemplate, answers: str) -> Rendering:
    """Renders an instance and finds its answers; `answers` is "all" or "last".

    Raises:
        Unfit: with the reason.
    """
    messages = [turn._asdict() for turn in instance.turns]
    if any(_RESERVED.search(message["content"]) for message in messages):
        raise Unfit("a turn holds a character U+FDD0 to U+FDD4, which Unicode keeps for programs")
    text, marked, _ = _take_signs(template.render(messages))
    words = _find_words(messages, template, text)
    turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    if template.marks_answers:
        if not marked:
            raise Unfit("its {% generation %} blocks hold nothing of this row")
        if answers == "last":
            if len(marked) != len(turns):
                raise Unfit(
                    f"it has {len(marked)} {{% generation %}} blocks for {len(turns)} answers, so "
                    "that the last answer is not known; pass --config.data.answers=all"
                )
            marked = marked[-1:]
        return Rendering(text, marked, [], words)
    found, prompts = [], []
    for turn in turns if answers == "all" else turns[-1:]:
        span, prompt = _find_answer(messages, turn, template, text)
        found.append(span)
        prompts.append(prompt)
    return Rendering(text, found, prompts, words)


def _find_answer(
    messages: list[dict[str, str]], turn: int, template: ChatTemplate, text: str
) -> tuple[tuple[int, int], str]:
    """The characters of the answer in `turn`, and the text before them."""
    which = f"answer {(turn + 1) // 2}"
    prompt = template.render(messages[:turn], prompt=True)
    last = turn == len(messages) - 1
    whole = text if last else template.render(messages[: turn + 1])
    if not text.startswith(whole):
        raise Unfit(
            f"it writes {which} and what stands before it otherwise once more turns follow; pass "
            "--config.data.answers=last to learn the last answer alone"
        )
    if not whole.startswith(prompt):
        raise Unfit(f"its prompt for {which} is not how the text with that answer begins")
    rest, answer = whole[len(prompt) :], messages[turn]["content"].strip()
    lead = len(rest) - len(rest.lstrip())
    if not rest.startswith(answer, lead):
        raise Unfit(
            f"between its prompt and the words of {which} it writes {rest[lead : lead + 40]!r}, of "
            "which nobody says whether it is learned; mark the answer with {% generation %}"
        )
    if not rest[lead + len(answer) :].strip():
        raise Unfit(f"it closes {which} with no token to stop at; write {{{{ eos_token }}}} there")
    return (len(prompt), len(prompt) + len(rest.rstrip())), prompt


def _find_words(
    messages: list[dict[str, str]], template: ChatTemplate, text: str
) -> list[tuple[int, int, int]] | None:
    """Where the turns' own words stand in `text`, without white space that was trimmed."""
    for trim in (False, True):
        signed = []
        for number, message in enumerate(messages):
            content = message["content"]
            own = content.strip() if trim else content
            sign = f"{_OPEN}{number}{_NUMBER_END}{own}{_CLOSE}"
            signed.append({**message, "content": content.replace(own, sign, 1)})
        try:
            plain, _, words = _take_signs(template.render(signed))
        except Unfit:
            return None
        # A template that looks into the contents may write another text when signs stand in them.
        if plain == text:
            return words
    return None


def _take_signs(
    signed: str,
) -> tuple[str, list[tuple[int, int]], list[tuple[int, int, int]]]:
    """The text without signs, the spans between marks, and those of the turns' words."""
    parts: list[str] = []
    marked: list[tuple[int, int]] = []
    words: list[tuple[int, int, int]] = []
    place = read = start = 0
    turn = word = 0
    for sign in _SIGNS.finditer(signed):
        parts.append(signed[read : sign.start()])
        place += sign.start() - read
        read = sign.end()
        if sign[1]:
            turn, word = int(sign[1]), place
        elif sign[2] == _CLOSE:
            words.append((turn, word, place))
        elif sign[2] == MARK:
            start = place
        elif place > start:
            marked.append((start, place))
    return "".join([*parts, signed[read:]]), marked, words


def tokenized(
    instances: Sequence[Instance], tokenizer: Tokenizer, template: ChatTemplate, answers: str
) -> list[TokenizedExample | Unfit]:
    """Renders and tokenizes instances; one that the template does not fit gives the reason."""
    rendered: list[Rendering | Unfit] = []
    texts: list[str] = []
    plain: list[list[tuple[int, int]]] = []
    for instance in instances:
        try:
            one = render(instance, template, answers)
            if one.words is None:
                _refuse_spelled(instance, tokenizer)
        except Unfit as reason:
            rendered.append(reason)
            continue
        rendered.append(one)
        spelled = [(start, end) for _, start, end in one.words or ()]
        texts += [one.text, *one.prompts]
        plain += [spelled] * (1 + len(one.prompts))
    encodings = iter(tokenizer.encode_rendered(texts, plain))
    rows: list[TokenizedExample | Unfit] = []
    for maybe in rendered:
        if isinstance(maybe, Unfit):
            rows.append(maybe)
            continue
        whole, prompts = next(encodings), [next(encodings) for _ in maybe.prompts]
        try:
            rows.append(_token_row(maybe, whole, prompts))
        except Unfit as reason:
            rows.append(reason)
    return rows


def _token_row(one: Rendering, whole: Encoding, prompts: list[Encoding]) -> TokenizedExample:
    ids, spans = whole
    answer, turn = np.full(len(ids), -1, np.int32), np.full(len(ids), -1, np.int32)
    for number, (start, end) in enumerate(one.answers):
        first = int((spans[:, 1] <= start).sum())
        if prompts:
            first = len(prompts[number].ids)
            if not np.array_equal(ids[:first], prompts[number].ids):
                raise Unfit("a token joins the end of its prompt with the answer")
            if ((spans[:, 0] < end) & (spans[:, 1] > end)).any():
                raise Unfit("a token joins the end of an answer with what follows")
        answer[first : int((spans[:, 0] < end).sum())] = number
    for index, start, end in one.words or ():
        lead = start - len(one.text[:start].rstrip())
        turn[holds_words(spans, start, end, lead)] = index
    return TokenizedExample(ids, answer, turn)


def _refuse_spelled(instance: Instance, tokenizer: Tokenizer) -> None:
    for special in tokenizer.special_texts:
        if any(special in turn.content for turn in instance.turns):
            raise Unfit(
                f"a turn spells the special token {special!r}, and it changes its text with what "
                "the turns hold, so that one cannot be told from the other"
            )
