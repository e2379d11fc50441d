"""The study's conversation form (arXiv 2406.11721), which needs no template.

    bos "User: …" "\\nAssistant: " "answer" eos "\\nUser: …" "\\nAssistant: " "answer" eos …

Turns are stripped of outer white space. What stands in quotes is tokenized by itself, so that the
tokens before an answer are those of a prompt that ends in "Assistant: ", whatever is answered. A
system turn, where there is one, comes first as "System: …", and a line break before "User: …". Only
answers and the eos that closes each carry loss.

Joined, a prompt and its answer are one text, and the blank before an answer is the answer's, since
most tokenizers make one token of it and the first word; the prompt then ends in "Assistant:".
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Turn
from zsg_jax.data.tokenize.encoding import Encoding, prolonged
from zsg_jax.data.tokenize.tokenizer import ByteTokenizer, Tokenizer
from zsg_jax.data.tokenize.truncation import TokenizedExample, Unfit, holds_words

_NO_TOOLS = "it has no place for tools, calls and thoughts; give a chat template that writes them"
_NAMES = {"system": "System: ", "user": "User: ", "assistant": ""}


class Piece(NamedTuple):
    """Text that is tokenized by itself.

    Attributes:
        text: what it holds, without the eos that closes an answer.
        words: (turn, start, end) of the text that stands in a turn, not in the form.
        answer: where an answer starts; None: it holds none.
    """

    text: str
    words: tuple[tuple[int, int, int], ...] = ()
    answer: int | None = None


def pieces(turns: Sequence[Turn], join: bool) -> list[Piece]:
    """Renders turns; after a user's last one comes the head of an answer."""
    head, blank = ("\nAssistant:", " ") if join else ("\nAssistant: ", "")
    made: list[Piece] = []
    for number, turn in enumerate(turns):
        answered, words = turn.role == "assistant", turn.content.strip()
        before = blank if answered else "\n" * bool(number) + _NAMES[turn.role]
        text = before + words
        piece = Piece(text, ((number, len(before), len(text)),), 0 if answered else None)
        asked = not answered and all(one.role == "assistant" for one in turns[number + 1 :][:1])
        made += [piece, Piece(head)] if asked else [piece]
    return _joined(made) if join else made


def has_tools(turns: Sequence[Turn]) -> bool:
    """Whether a conversation holds more than what a system, users and assistants say."""
    return any(turn.more or turn.role not in _NAMES for turn in turns)


def _joined(apart: Sequence[Piece]) -> list[Piece]:
    """A piece for every answer with what stands before it, and for what stands after the last."""
    made: list[Piece] = []
    for piece in apart:
        if made and made[-1].answer is None:
            text, words, _ = made.pop()
            by = len(text)
            words += tuple((turn, start + by, end + by) for turn, start, end in piece.words)
            piece = Piece(text + piece.text, words, None if piece.answer is None else by)
        made.append(piece)
    return made


def tokenized(
    conversations: Sequence[Sequence[Turn]], tokenizer: Tokenizer, answers: str, join: bool
) -> list[TokenizedExample | Unfit]:
    """Tokenizes conversations; `answers` is "all" or "last". Tools have no place in this form.

    One that ends in a user's turn is what a model is asked to go on from: its last answer, which
    "last" would learn, is yet to come.
    """
    # Bytes are never joined.
    join = join and not isinstance(tokenizer, ByteTokenizer)
    rendered = [[] if has_tools(turns) else pieces(turns, join) for turns in conversations]
    texts = {
        text for made in rendered for one in made for text in (one.text, one.text[: one.answer])
    }
    encodings = dict(zip(texts, tokenizer.encode(list(texts)), strict=True))
    none = np.full(0 if tokenizer.bos_id is None else 1, -1, np.int32)
    bos = TokenizedExample(np.full_like(none, tokenizer.bos_id or 0), none, none)
    examples: list[TokenizedExample | Unfit] = []
    for turns, made in zip(conversations, rendered, strict=True):
        if not made:
            examples.append(Unfit(_NO_TOOLS))
            continue
        parts, number = [bos], 0
        for piece in made:
            part = _tokens(piece, encodings, tokenizer)
            if piece.answer is not None:
                turn = piece.words[-1][0]
                learned = turns[turn].learned and (answers == "all" or turn == len(turns) - 1)
                part.answer[part.answer == 0] = number if learned else -1
                number += learned
            parts.append(part)
        examples.append(TokenizedExample(*map(np.concatenate, zip(*parts, strict=True))))
    return examples


def _tokens(
    piece: Piece, encodings: Mapping[str, Encoding], tokenizer: Tokenizer
) -> TokenizedExample:
    """The tokens of a piece and the eos that closes it, if it holds an answer, numbered 0."""
    text, words, start = piece
    part, closing = encodings[text], []
    answer = np.full(len(part.ids), -1, np.int32)
    if start is not None:
        prompt, closing = encodings[text[:start]], [tokenizer.eos_id]
        part = prolonged(prompt, part, text, start, lambda rest: tokenizer.encode([rest])[0])
        answer = np.where(np.arange(len(part.ids) + 1) < len(prompt.ids), -1, 0).astype(np.int32)
    turn = np.full(len(answer), -1, np.int32)
    for index, begin, end in words:
        turn[: len(part.ids)][holds_words(part.spans, begin, end, lead=1)] = index
    return TokenizedExample(np.append(part.ids, np.asarray(closing, np.int32)), answer, turn)
