"""Texts that templates wrote: special tokens are known when seen, but for those in plain words."""

from collections.abc import Sequence

import numpy as np
import tokenizers

from zsg_jax.data.tokenize.encoding import (
    Encoding,
    Span,
    encode_inside,
    joined,
    moved,
    overlaps,
    part,
)
from zsg_jax.runtime.bounded import SECONDS, bounded
from zsg_jax.runtime.errors import UserError, first_line, is_panic
from zsg_jax.runtime.progress import count
from zsg_jax.runtime.streams import hushed


def to_encoding(encoding: tokenizers.Encoding) -> Encoding:
    """What `tokenizers` gives, as arrays."""
    return Encoding(
        np.asarray(encoding.ids, np.int32), np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
    )


def encoded(inner: tokenizers.Tokenizer, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    """Encodes texts, each alone, without special tokens around it, in a time that is bounded.

    Raises:
        UserError: the tokenizer fails on one of them.
    """
    shown = next((text for text in texts if text.strip()), "")[:40]

    def told() -> str:
        return (
            f"tokenizer: has not ended on {count(len(texts), 'text')} such as {shown!r}; the "
            "regular expressions of its tokenizer.json may take for ever; mend or replace it"
        )

    try:
        # The batch leaves Python's lock to others; a million characters take it a second or less.
        with hushed(), bounded(told, SECONDS + sum(map(len, texts)) / 1e5):
            return inner.encode_batch(list(texts), add_special_tokens=False)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise UserError(
            f"tokenizer: fails on {count(len(texts), 'text')} such as {shown!r}: "
            f"{first_line(error)}; mend its tokenizer.json, or give another"
        ) from None


class RenderedEncoder:
    """A `tokenizers` model that knows special tokens when it sees them, and adds none itself."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        """Copies `inner`, which is left as it is."""
        self._inner = tokenizers.Tokenizer.from_str(inner.to_str())
        # It may take white space out of the spans, which are all that shows a token's borders.
        self._inner.post_processor = None
        self._inner.encode_special_tokens = False
        added = inner.get_added_tokens_decoder().items()
        self._special = np.asarray([i for i, one in added if one.special], np.int32)

    def encode(self, texts: Sequence[str], plain: Sequence[Sequence[Span]]) -> list[Encoding]:
        """Encodes texts; `plain` holds for each the characters where special tokens are text."""
        batch = encoded(self._inner, texts)
        return [
            self._with_plain(text, to_encoding(one), kept)
            for text, one, kept in zip(texts, batch, plain, strict=True)
        ]

    def _with_plain(self, text: str, whole: Encoding, plain: Sequence[Span]) -> Encoding:
        """`whole` with those stretches between real special tokens anew that spell others."""
        special = np.flatnonzero(np.isin(whole.ids, self._special)).tolist()
        # A token that takes white space beside it does not own it: a turn may begin there.
        bare = Encoding(whole.ids, whole.spans.copy())
        for i in special:
            bare.spans[i] = _stripped(text, *whole.spans[i].tolist())
        real = [i for i in special if not overlaps(bare.spans[i].tolist(), plain)]
        if len(real) == len(special):
            return bare
        parts, read = [], 0
        for place in [*real, len(whole.ids)]:
            if any(read <= i < place for i in special):
                start = int(whole.spans[read - 1, 1]) if read else 0
                end = len(text) if place == len(whole.ids) else int(whole.spans[place, 0])
                words, encode = text[start:end], self._encode_plain
                one = encode_inside(encode, words) if start else encode(words)
                parts.append(moved(one, start))
            else:
                parts.append(part(bare, read, place))
            parts.append(part(bare, place, place + 1))
            read = place + 1
        return joined(parts)

    def _encode_plain(self, text: str) -> Encoding:
        self._inner.encode_special_tokens = True
        one = to_encoding(encoded(self._inner, [text])[0])
        self._inner.encode_special_tokens = False
        return one


def _stripped(text: str, start: int, end: int) -> Span:
    """A span without the white space at its ends, if it holds anything else."""
    words = text[start:end]
    if not words.strip():
        return start, end
    return end - len(words.lstrip()), start + len(words.rstrip())
