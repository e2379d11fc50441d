"""Rows as text and as character tokens, in one of a few forms of prompt.

compact   x>y|z=answer$                     rules of a list one after the other: x>y|x>y|z=
lines     x -> y ⏎ z ⏎ answer$              a rule a line
encrypted cipher#x>y|z=answer$              compact, after the letters that stand for a, b, c, …
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.rewriting.rows import Rows
from zsg_jax.data.rewriting.rules import LETTERS, PAD, Language
from zsg_jax.runtime.errors import UserError, check, did_you_mean

END = "$"


class Form(NamedTuple):
    """What stands between the parts of a row: after a cipher, x, y and z."""

    after_x: str
    after_y: str
    after_z: str
    after_cipher: str = "#"


FORMS = {"compact": Form(">", "|", "="), "lines": Form(" -> ", "\n", "\n")}


class Encoded(NamedTuple):
    """Rows as tokens.

    Attributes:
        tokens: (N, L) uint8; after the end of a row come more end tokens.
        lengths: (N,) tokens of each row, its end token included.
        prompt: tokens of every prompt, P.
        answer_mask: (N, L) bool, the letters of the answer and its end token.
        replaced_mask: (N, L) bool, the letters of the answer that come from a y.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    prompt: int
    answer_mask: np.ndarray
    replaced_mask: np.ndarray


def joined(parts: Sequence[Encoded]) -> Encoded:
    """Rows of one form, one part after the other."""
    tokens, lengths, _, answers, replaced = zip(*parts, strict=True)
    return Encoded(
        np.concatenate(tokens),
        np.concatenate(lengths),
        parts[0].prompt,
        np.concatenate(answers),
        np.concatenate(replaced),
    )


class Writer:
    """Writes the rows of a language in a form: characters are tokens, numbered from 0.

    Attributes:
        vocabulary: the characters, those of the alphabet first.
        prompt: tokens of a prompt, P.
        length: tokens at most of a row, L.
    """

    def __init__(self, form: str, language: Language) -> None:
        """Takes the name of a form.

        Raises:
            UserError: there is none of this name.
        """
        if form not in FORMS:
            raise UserError(
                f"form={form!r} of a prompt is unknown; choose one of {', '.join(FORMS)}"
                + did_you_mean(form, FORMS)
            )
        check(len(LETTERS) >= language.letters, f"letters={language.letters}: too many")
        self.language, self._form = language, FORMS[form]
        marks = [*self._form[:3], END, *([self._form.after_cipher] * language.encrypted)]
        others = "".join(dict.fromkeys("".join(marks)))
        self.vocabulary = LETTERS[: language.letters] + others
        rule = language.x + language.y + len(self._form.after_x + self._form.after_y)
        head = (language.letters + 1) * language.encrypted
        self.prompt = head + language.rules * rule + language.z + len(self._form.after_z)
        self.length = self.prompt + language.answer + 1

    def encode(self, rows: Rows) -> Encoded:
        """Rows as tokens, with what is told of each."""
        tokens, lengths = self.tokens(rows)
        place = np.arange(self.length)
        answer = (place >= self.prompt) & (place < lengths[:, None])
        replaced = np.zeros(tokens.shape, bool)
        replaced[:, self.prompt : -1] = rows.replaced
        return Encoded(tokens, lengths, self.prompt, answer, replaced)

    def tokens(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of rows, (N, L) uint8, and how many each has, (N,), alone."""
        N, form = len(rows), self._form
        parts: list[np.ndarray] = []
        if rows.cipher is not None:
            parts += [rows.cipher, self._mark(form.after_cipher, N)]
        for r in range(self.language.rules):
            parts += [rows.x[:, r], self._mark(form.after_x, N)]
            parts += [rows.y[:, r], self._mark(form.after_y, N)]
        parts += [rows.z, self._mark(form.after_z, N), rows.answer, self._mark(END, N)]
        tokens = np.concatenate(parts, axis=1)
        answers = tokens[:, self.prompt :]
        answers[answers == PAD] = self.vocabulary.index(END)
        return tokens, self.prompt + rows.length + 1

    def texts(self, tokens: np.ndarray, lengths: Sequence[int] | np.ndarray) -> list[str]:
        """Rows (N, L) of tokens as text, up to these lengths."""
        table = np.array(list(self.vocabulary))
        pairs = zip(table[tokens], lengths, strict=True)
        return ["".join(row[:length]) for row, length in pairs]

    def _mark(self, mark: str, count: int) -> np.ndarray:
        ids = np.array([self.vocabulary.index(one) for one in mark], np.uint8)
        return np.broadcast_to(ids, (count, len(mark)))
