"""Plain texts to pretrain a small model on: a file's, or general strings made on the spot.

A general string is a few random words that come again and again behind one mark or another, whole,
in part or joined. So copying from earlier text is all that is to be learned: no rule stands in it,
no question and no answer.
"""

from collections.abc import Sequence

import numpy as np

from zsg_jax.data.tokenize.examples import Examples
from zsg_jax.data.tokenize.tokenizer import Tokenizer

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_MARKS = (" ", "\n", ": ", " -> ", ", ", "; ")
_LENGTH = 40  # letters and marks of a string at least
_PART, _JOINED = 0.25, 0.15  # shares of words that come in part, or two at once


def general_strings(count: int, seed: int) -> list[str]:
    """Makes `count` strings; the same arguments give the same, more begin with the same."""
    return [_string(np.random.default_rng([seed, number])) for number in range(count)]


def _string(rng: np.random.Generator) -> str:
    letters = rng.permutation(list(_LETTERS))[: rng.integers(6, len(_LETTERS) + 1)]
    words = ["".join(rng.choice(letters, rng.integers(3, 13))) for _ in range(rng.integers(2, 4))]
    made = ""
    while len(made) < _LENGTH:
        word, kind = words[rng.integers(len(words))], rng.random()
        if kind < _PART:
            start = rng.integers(0, len(word) - 2)
            word = word[start : start + rng.integers(3, len(word) - start + 1)]
        elif kind < _PART + _JOINED:
            word += words[rng.integers(len(words))]
        made += word + _MARKS[rng.integers(len(_MARKS))]
    return made.strip()


def encode_plain(texts: Sequence[str], tokenizer: Tokenizer, max_length: int) -> Examples:
    """Texts as tokens for a language model, all but the first with loss: bos, text, eos.

    What is longer than `max_length` tokens is cut at the tail.
    """
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    examples = []
    for one in tokenizer.encode(texts):
        ids = np.array([*bos, *one.ids.tolist(), tokenizer.eos_id], np.int32)[:max_length]
        examples.append((ids, np.arange(len(ids)) > 0))
    return Examples(examples)
