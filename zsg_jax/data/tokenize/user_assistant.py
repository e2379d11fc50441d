"""The study's conversation form (arXiv 2406.11721), which needs no template.

    bos "User: …\\nAssistant: answer" eos "\\nUser: …\\nAssistant: answer" eos …

A system turn, where there is one, comes first as "System: …" and a line break. Only answer tokens
and the eos that closes each answer carry loss.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.data.tokenize.truncation import TokenizedExample, holds_words


class Exchange(NamedTuple):
    """One prompt with its answer.

    Attributes:
        text: what is tokenized; `text[answer_start:]` is the answer, closed by eos.
        answer_start: in characters.
        words: (turn, start, end) of the text that stands in a turn, not in the form.
    """

    text: str
    answer_start: int
    words: tuple[tuple[int, int, int], ...]


def exchanges(instance: Instance) -> list[Exchange]:
    """Renders the turns of an instance; every exchange ends where an eos stands."""
    rendered = []
    text, words = "", []
    for number, turn in enumerate(instance.turns):
        text += {"system": "System: ", "user": "User: ", "assistant": "Assistant: "}[turn.role]
        words.append((number, len(text), len(text) + len(turn.content)))
        text += turn.content
        if turn.role == "assistant":
            rendered.append(Exchange(text, words[-1][1], tuple(words)))
            words = []
        text = "\n" if turn.role == "assistant" else text + "\n"
    return rendered


def tokenized(
    instances: Sequence[Instance], tokenizer: Tokenizer, answers: str
) -> list[TokenizedExample]:
    """Tokenizes instances; `answers` is "all" or "last".

    A token that holds any character of an answer belongs to it, so a token that joins the space
    before the answer with its first letters carries loss.
    """
    rendered = [exchanges(instance) for instance in instances]
    encodings = iter(tokenizer.encode([exchange.text for one in rendered for exchange in one]))
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    rows = []
    for one in rendered:
        ids = [np.asarray(bos, np.int32)]
        answer, turn = [np.full(len(bos), -1, np.int32)], [np.full(len(bos), -1, np.int32)]
        for number, exchange in enumerate(one):
            part, spans = next(encodings)
            ids += [part, np.asarray([tokenizer.eos_id], np.int32)]
            if answers == "last":
                number = 0 if exchange is one[-1] else -1
            learned = np.append(spans[:, 1] > exchange.answer_start, True)
            answer.append(np.where(learned, number, -1).astype(np.int32))
            own = np.full(len(learned), -1, np.int32)
            for index, start, end in exchange.words:
                own[:-1][holds_words(spans, start, end, lead=1)] = index
            turn.append(own)
        rows.append(
            TokenizedExample(np.concatenate(ids), np.concatenate(answer), np.concatenate(turn))
        )
    return rows
