"""Words at which a text ends, wherever they stand in it.

Tokens alone do not tell: a tokenizer writes "." in one way behind a space, in another behind a
letter, and joins it with what stands beside it. So a text is looked through as text; tokens that
surely make the words only end it early, see `forms`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.evaluation.generation import Written
from zsg_jax.runtime.errors import check


class Stops(NamedTuple):
    """What ends a text.

    Attributes:
        words: each of them does, wherever it stands.
        least: tokens of a text that no end is looked for in.
    """

    words: tuple[str, ...] = ()
    least: int = 0

    def cut(self, written: Written, decode: Callable[[Sequence[int]], str]) -> tuple[str, Written]:
        """A text up to the first of the words, and its tokens: those that lie before them whole."""
        text = decode(written.tokens)
        if not self.words:
            return text, written
        whole = [*written.tokens, *written.end]
        looked = decode(whole)
        start = len(decode(whole[: self.least])) if self.least else 0
        found = [looked.find(words, max(0, start + 1 - len(words))) for words in self.words]
        ends = [place for place in found if place >= 0]
        if not ends:
            return text, written
        end, count = min(ends), len(whole)
        while count and len(decode(whole[:count])) > end:
            count -= 1
        return looked[:end], Written(whole[:count], "stop")


NONE = Stops()


def forms(words: str, tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """The tokens of some words by themselves, and of those behind a letter where they stay apart.

    Special tokens that they spell are those, which no decoded text shows.

    Raises:
        UserError: words without a token.
    """
    alone, letter, behind = (
        tuple(one.ids.tolist()) for one in tokenizer.encode([words, "a", f"a{words}"])
    )
    check(bool(words and alone), f"generation: a stop of no tokens, {words!r}; leave it out")
    if any(special in words for special in tokenizer.special_texts):
        return [tuple(tokenizer.encode_rendered([words], [[]])[0].ids.tolist())]
    apart = behind[len(letter) :] if behind[: len(letter)] == letter else ()
    return list(dict.fromkeys(form for form in (alone, apart) if form))
