"""A conversation under a chat template: its tokens, and exactly which of them are answers.

What a model is asked to go on from, the conversation up to an answer rendered with the generation
prompt, must be how the text with that answer begins, and its tokens are the first of the whole's:
where a token would join it with the answer, the two are tokenized apart.

Where the template has `{% generation %}` blocks, they say what is learned. Elsewhere an answer is
what the template writes after the prompt: its words must follow at once, white space aside, and how
the text with the answer ends must be how the whole text goes on. The mask then runs from there to
the end of what closes the answer (<|im_end|>, <|eot_id|>, </s>), without white space behind that,
which belongs to the next turn. Where nothing closes it, as in GLM-4, that is the special token that
the next turn would begin with, at which generation stops. Between prompt and words may stand what a
model writes before it answers: a block with the thought that the row gives, or an empty one, which
is learned or masked by choice; or the head of a channel (gpt-oss). Whatever fails one of these is
`Unfit`, and no guess is made.

A template that writes earlier turns otherwise than the last, as those do that take thoughts out,
shows inference another text than any earlier answer was learned under: of a conversation with
several answers, only the last can then be learned, or each as the last of its own sequence
(`data.by_answer`).
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.data.instance import THOUGHTS, TOOLS, Turn
from zsg_jax.data.tokenize.encoding import Encoding, Span, prolonged
from zsg_jax.data.tokenize.jinja import MARK, MARK_END, ChatTemplate
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.data.tokenize.truncation import TokenizedExample, Unfit, holds_words
from zsg_jax.data.tokenize.written import Messages, check_written
from zsg_jax.runtime.settings import setting

# Around a turn's words, its number first; kept for use inside a program, as MARK is.
_OPEN, _NUMBER_END, _CLOSE = "\ufdd2", "\ufdd3", "\ufdd4"
_SIGNS = re.compile(f"{_OPEN}([0-9]+){_NUMBER_END}|([{_CLOSE}{MARK}{MARK_END}])")
_RESERVED = re.compile(f"[{MARK}-{_CLOSE}]")
# What a model writes before an answer's words: a thought, which the prompt may have begun, empty or
# with what the row says it holds; or channels, the last of which is the answer's.
_OPENED = r"\s*(?:<([a-z_:]+)>)?\s*"
_CLOSED = r"\s*</((?:seed:)?think(?:ing)?|thought|reasoning)>\s*"
_CHANNEL = r"\s*<\|channel\|>\w+<\|message\|>"
_NEXT_CHANNEL = r"\s*<\|end\|><\|start\|>assistant" + _CHANNEL
# Behind it stands what is left of an answer whose thought a template takes out.
_THOUGHT_END = re.compile(_CLOSED)
# What tells a template whether to think, and is not always written.
_SWITCH = re.compile(r"/\w+")
_WRONG_PROMPT = "its prompt for {} is not how the text with that answer begins"


def _last_alone() -> str:
    return (
        f"; pass {setting('data.answers', 'each')} to learn each as the last of a sequence of its "
        f"own, or {setting('data.answers', 'last')} to learn the last answer alone"
    )


class Answer(NamedTuple):
    """An answer that is learned.

    Attributes:
        prompt: characters of the text before it, which are its prompt.
        learned: characters [start, end) of what is learned, the first from `prompt` on.
    """

    prompt: int
    learned: list[Span]


class Rendering(NamedTuple):
    """A conversation as text.

    Attributes:
        text: as the template writes it.
        answers: those that are learned, in order.
        words: (turn, start, end) of the text that stands in a turn; None where it cannot be told.
    """

    text: str
    answers: list[Answer]
    words: list[tuple[int, int, int]] | None

    @property
    def spelled(self) -> list[Span]:
        """Where special tokens are only text."""
        return [(start, end) for _, start, end in self.words or ()]


def render(
    turns: Sequence[Turn],
    template: ChatTemplate,
    answers: str,
    special_texts: Sequence[str] = (),
    thoughts: str = "learn",
) -> Rendering:
    """Renders a conversation and finds its answers.

    One that ends in a user's turn gets the generation prompt, its last answer being yet to come.

    Args:
        answers: "all" or "last".
        special_texts: special tokens that may close an answer.
        thoughts: "learn" or "mask", of empty blocks of thought before an answer.

    Raises:
        Unfit: with the reason.
    """
    messages = [turn.message for turn in turns]
    if any(_RESERVED.search(turn.content + turn.more) for turn in turns):
        raise Unfit("a turn holds a character U+FDD0 to U+FDD4, which Unicode keeps for programs")
    text, marked, _ = _write(messages, template)
    check_written(messages, template, special_texts)
    words = _find_words(messages, template, text)
    _check_words(messages, words, text)
    found: list[Answer] = []
    first = 0 if answers == "all" else len(messages) - 1
    for turn in range(len(messages) - 1, first - 1, -1):
        if messages[turn]["role"] == "assistant":
            prompt = _write(messages[:turn], template)[0]
            which = f"answer {sum(one.role == 'assistant' for one in turns[: turn + 1])}"
            if not turns[turn].learned:
                marked = [span for span in marked if span[1] <= len(prompt)]
                continue
            if template.marks_answers:
                if not text.startswith(prompt):
                    last = turn == len(messages) - 1
                    raise Unfit(_WRONG_PROMPT.format(which) + ("" if last else _last_alone()))
                learned = _take_marked(prompt, text, marked, which)
                own = _THOUGHT_END.split(messages[turn]["content"])[-1]
                if not _holds("".join(text[start:end] for start, end in learned), own):
                    raise Unfit(
                        f"its {{% generation %}} blocks leave out or change words of {which}, "
                        f"{own[:40]!r}"
                    )
            else:
                span, closing = _find_answer(
                    messages, turn, template, text, prompt, which, special_texts, thoughts
                )
                text += closing
                learned = [span]
            found.append(Answer(len(prompt), learned))
    if answers == "all" and marked and template.marks_answers:
        raise Unfit("its {% generation %} blocks mark what is no answer")
    return Rendering(text, found[::-1], words)


def _take_marked(prompt: str, text: str, marked: list[Span], which: str) -> list[Span]:
    """Takes the blocks of an answer, those behind its prompt, off the end of `marked`."""
    taken = [span for span in marked if span[1] > len(prompt)]
    del marked[len(marked) - len(taken) :]
    if not taken:
        raise Unfit(f"its {{% generation %}} blocks hold nothing of {which}")
    between = text[len(prompt) : taken[0][0]]
    if between.strip():
        raise Unfit(
            f"between its prompt and what it marks of {which} it writes {between[:40]!r}; begin "
            "the {% generation %} block there"
        )
    # What a block marks of the prompt, such as the head of the turn, nobody is asked to write.
    return [(len(prompt), taken[0][1]), *taken[1:]]


def _find_answer(
    messages: Messages,
    turn: int,
    template: ChatTemplate,
    text: str,
    prompt: str,
    which: str,
    special_texts: Sequence[str],
    thoughts: str,
) -> tuple[Span, str]:
    """The characters of the answer in `turn`, where the template has no blocks.

    Returns:
        They, and what `text` must go on with so that they are closed.
    """
    last, closes = turn == len(messages) - 1, tuple(special_texts)
    whole = text if last else _write(messages[: turn + 1], template)[0]
    if not text.startswith(whole):
        raise Unfit(
            f"it writes {which} and what stands before it otherwise once more turns follow"
            f"{_last_alone()}"
        )
    if not whole.startswith(prompt):
        raise Unfit(_WRONG_PROMPT.format(which))
    rest, answer = whole[len(prompt) :], messages[turn]["content"].strip()
    lead = len(rest) - len(rest.lstrip())
    thought, held = 0, "".join(messages[turn].get(key, "") for key in THOUGHTS).strip()
    if held or not answer or not rest.startswith(answer, lead):
        thought, lead = _before_words(prompt, rest, held)
    if not rest.startswith(answer, lead):
        raise Unfit(
            f"between its prompt and the words of {which} it writes {rest[lead : lead + 40]!r}, of "
            "which nobody says whether it is learned; mark the answer with {% generation %}"
        )
    begin = len(prompt) + (thought if thoughts == "mask" else 0)
    behind = rest[lead + len(answer) :].strip()
    # Calls stand behind the words; what closes them is what generation stops at.
    if behind and not (messages[turn].get("tool_calls") and not behind.endswith(closes)):
        return (begin, len(prompt) + len(rest.rstrip())), ""
    closing = _closing(messages[: turn + 1], template, special_texts)
    if not closing or not (last or text.startswith(closing, len(whole))):
        raise Unfit(f"it closes {which} with no token to stop at; write {{{{ eos_token }}}} there")
    return (begin, len(whole) + len(closing)), closing if last else ""


def _check_words(messages: Messages, words: list[tuple[int, int, int]] | None, text: str) -> None:
    """Refuses a template that leaves a turn out or changes its words.

    Where it looks into the words, they need only stand somewhere. An answer's are looked for behind
    its prompt, and a tool's in `check_written`, as templates may write them as JSON.
    """
    for number, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role in (TOOLS, "assistant") or not content.strip():
            continue
        written = [text[start:end] for turn, start, end in words or () if turn == number]
        if words is not None and not written:
            raise Unfit(f"it leaves out the {role} turn {content[:40]!r}")
        if role != "tool" and not any(_holds(one, content) for one in written or [text]):
            raise Unfit(f"it leaves out or changes words of the {role} turn {content[:40]!r}")


def _holds(written: str, words: str) -> bool:
    """Whether words stand in what was written, but for white space and switches as /no_think."""
    return any(form(words) in form(written) for form in (str.strip, _spaced, _without_switches))


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _without_switches(text: str) -> str:
    return _spaced(_SWITCH.sub(" ", text))


def _before_words(prompt: str, rest: str, held: str) -> tuple[int, int]:
    """How many characters of `rest` are an empty thought, and how many stand before the words.

    `held` is what was thought; "": nothing.
    """
    block = re.match(_OPENED + re.escape(held) + _CLOSED, rest)
    if block and (block[1] == block[2] or prompt.rstrip().endswith(f"<{block[2]}>")):
        return 0 if held else block.end(), block.end()
    between = rf"\s*{re.escape(held)}{_NEXT_CHANNEL}" if held else ""
    channel = re.match(_CHANNEL + between, rest)
    return 0, channel.end() if channel else len(rest) - len(rest.lstrip())


def _closing(messages: Messages, template: ChatTemplate, special_texts: Sequence[str]) -> str:
    """The special token, and white space before it, that a turn after the last would begin with."""
    last = {**messages[-1], "content": messages[-1]["content"] + _CLOSE}
    if last.get("tool_calls"):  # a tool's turn follows
        whole = template.render(messages)
        signed = template.render([*messages, {"role": "tool", "content": "a"}])
        after = signed[len(whole) :] if signed.startswith(whole) else ""
    else:
        signed = template.render([*messages[:-1], last, {"role": "user", "content": "a"}])
        after = signed.rpartition(_CLOSE)[2]
    begins = [one for one in special_texts if after.lstrip().startswith(one)]
    return after[: len(after) - len(after.lstrip()) + len(max(begins, key=len))] if begins else ""


def _write(
    messages: Messages, template: ChatTemplate
) -> tuple[str, list[Span], list[tuple[int, int, int]]]:
    """A conversation without signs, with the generation prompt if a user speaks last."""
    return _take_signs(template.render(messages, prompt=messages[-1]["role"] != "assistant"))


def _find_words(
    messages: Messages, template: ChatTemplate, text: str
) -> list[tuple[int, int, int]] | None:
    """Where the turns' own words stand in `text`, without white space that was trimmed."""
    for trim in (False, True):
        signed: list[Mapping[str, Any]] = []
        for number, message in enumerate(messages):
            content = message["content"]
            if message["role"] == TOOLS or not content:
                signed.append(message)
                continue
            own = content.strip() if trim else content
            sign = f"{_OPEN}{number}{_NUMBER_END}{own}{_CLOSE}"
            signed.append({**message, "content": content.replace(own, sign, 1)})
        try:
            plain, _, words = _write(signed, template)
        except Unfit:
            return None
        # A template that looks into the contents may write another text when signs stand in them,
        # and one that takes a thought out takes its sign along.
        if plain == text:
            return None if any(start < 0 for _, start, _ in words) else words
    return None


def _take_signs(
    signed: str,
) -> tuple[str, list[tuple[int, int]], list[tuple[int, int, int]]]:
    """The text without signs, the spans between marks, and those of the turns' words."""
    parts: list[str] = []
    marked: list[tuple[int, int]] = []
    words: list[tuple[int, int, int]] = []
    place = read = start = turn = 0
    word = -1
    for sign in _SIGNS.finditer(signed):
        parts.append(signed[read : sign.start()])
        place += sign.start() - read
        read = sign.end()
        if sign[1]:
            turn, word = int(sign[1]), place
        elif sign[2] == _CLOSE:
            words.append((turn, word, place))
            word = -1
        elif sign[2] == MARK:
            start = place
        elif place > start:
            marked.append((start, place))
    return "".join([*parts, signed[read:]]), marked, words


def tokenized(
    conversations: Sequence[Sequence[Turn]],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    answers: str,
    thoughts: str = "learn",
) -> list[TokenizedExample | Unfit]:
    """Renders and tokenizes conversations; one that the template does not fit gives the reason."""
    rendered: list[Rendering | Unfit] = []
    texts: list[str] = []
    plain: list[list[Span]] = []
    for turns in conversations:
        try:
            one = render(turns, template, answers, tokenizer.special_texts, thoughts)
            if one.words is None:
                _refuse_spelled(turns, tokenizer)
        except Unfit as reason:
            rendered.append(reason)
            continue
        rendered.append(one)
        texts += [*(one.text[: answer.prompt] for answer in one.answers), one.text]
        plain += [one.spelled] * (len(one.answers) + 1)
    encodings = iter(tokenizer.encode_rendered(texts, plain))
    examples: list[TokenizedExample | Unfit] = []
    for maybe in rendered:
        if isinstance(maybe, Unfit):
            examples.append(maybe)
            continue
        parts = list(itertools.islice(encodings, len(maybe.answers) + 1))
        try:
            examples.append(_example(maybe, parts, tokenizer, not template.marks_answers))
        except Unfit as reason:
            examples.append(reason)
    return examples


def tokenized_whole(
    conversations: Sequence[Sequence[Turn]], tokenizer: Tokenizer, template: ChatTemplate
) -> list[TokenizedExample | Unfit]:
    """The text of each conversation in tokens, as transformers makes them, whatever is learned.

    Marked as the answer are the words of the last turn and what stands behind them; where the
    template hides the words, all is.
    """
    written: list[Rendering | Unfit] = []
    for turns in conversations:
        messages = [turn.message for turn in turns]
        try:
            text = _write(messages, template)[0]
            check_written(messages, template, tokenizer.special_texts)
            words = _find_words(messages, template, text)
            if words is None:
                _refuse_spelled(turns, tokenizer)
            written.append(Rendering(text, [], words))
        except Unfit as reason:
            written.append(reason)
    told = [one for one in written if isinstance(one, Rendering)]
    encodings = iter(
        tokenizer.encode_rendered([one.text for one in told], [one.spelled for one in told])
    )
    examples: list[TokenizedExample | Unfit] = []
    for turns, maybe in zip(conversations, written, strict=True):
        if isinstance(maybe, Unfit):
            examples.append(maybe)
            continue
        whole = next(encodings)
        found = maybe.words or []
        starts = [start for turn, start, _ in found if turn == len(turns) - 1]
        if not turns[-1].content.strip():  # what stands behind all others then
            starts = [max((end for *_, end in found), default=0)]
        answer = np.where(whole.spans[:, 1] > min(starts, default=0), 0, -1).astype(np.int32)
        examples.append(TokenizedExample(whole.ids, answer, _turns(maybe, whole.spans)))
    return examples


def _example(
    one: Rendering, parts: list[Encoding], tokenizer: Tokenizer, closed: bool
) -> TokenizedExample:
    """Tokens and mask, from the encodings of all prompts and of the whole text.

    Args:
        closed: whether no token may join the end of an answer with what follows.
    """
    ends = [*(answer.prompt for answer in one.answers), len(one.text)]
    whole, firsts = parts[0], []
    for start, end, part in zip(ends, ends[1:], parts[1:], strict=False):
        firsts.append(len(whole.ids))
        encode = partial(_encode_end, tokenizer, one.spelled, end)
        whole = prolonged(whole, part, one.text[:end], start, encode)
    ids, spans = whole
    answer = np.full(len(ids), -1, np.int32)
    for number, (first, (prompt, learned)) in enumerate(zip(firsts, one.answers, strict=True)):
        for start, end in learned:
            if closed and ((spans[:, 0] < end) & (spans[:, 1] > end)).any():
                raise Unfit("a token joins the end of an answer with what follows")
            begin = first if start == prompt else int((spans[:, 1] <= start).sum())
            answer[begin : int((spans[:, 0] < end).sum())] = number
    return TokenizedExample(ids, answer, _turns(one, spans))


def _turns(one: Rendering, spans: np.ndarray) -> np.ndarray:
    """(n,) int32, the turn whose words each token holds; -1: the template wrote it."""
    turn = np.full(len(spans), -1, np.int32)
    for index, start, end in one.words or ():
        lead = start - len(one.text[:start].rstrip())
        turn[holds_words(spans, start, end, lead)] = index
    return turn


def _encode_end(tokenizer: Tokenizer, spelled: Sequence[Span], end: int, text: str) -> Encoding:
    """Encodes a text that ends at `end` of the whole; `spelled` are the whole's words."""
    by = len(text) - end
    return tokenizer.encode_rendered([text], [[(s + by, e + by) for s, e in spelled]])[0]


def _refuse_spelled(turns: Sequence[Turn], tokenizer: Tokenizer) -> None:
    for special in tokenizer.special_texts:
        if any(special in turn.content for turn in turns):
            raise Unfit(
                f"a turn spells the special token {special!r}, and it changes its text with what "
                "the turns hold, so that one cannot be told from the other"
            )
