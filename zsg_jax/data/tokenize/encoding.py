"""Tokens of a text with the characters they came from: joined, moved, and cut apart."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Span = tuple[int, int]


class Encoding(NamedTuple):
    """Tokens of one text: ids (n,) int32, and the characters [start, end) it came from (n, 2)."""

    ids: np.ndarray
    spans: np.ndarray


def part(encoding: Encoding, start: int, end: int) -> Encoding:
    """Tokens [start, end)."""
    return Encoding(encoding.ids[start:end], encoding.spans[start:end])


def moved(encoding: Encoding, by: int) -> Encoding:
    """The same tokens, `by` characters further on."""
    return Encoding(encoding.ids, encoding.spans + by)


def joined(parts: Sequence[Encoding]) -> Encoding:
    """All tokens, one after the other."""
    ids, spans = zip(*parts, strict=True)
    return Encoding(np.concatenate(ids), np.concatenate(spans))


def overlaps(span: Sequence[int], others: Sequence[Span]) -> bool:
    """Whether `span` shares a character with any of `others`."""
    return any(start < span[1] and span[0] < end for start, end in others)


def encode_inside(encode: Callable[[str], Encoding], text: str) -> Encoding:
    """Encodes a text that goes on after another, which some models would begin with a space.

    A line break before it, taken away again, keeps that space off, unless the break is joined with
    the text.
    """
    shift = 1
    one = encode("\n" + text)
    if ((one.spans[:, 0] < shift) & (one.spans[:, 1] > shift)).any():
        shift, one = 0, encode(text)
    own = one.spans[:, 1] > shift
    return Encoding(one.ids[own], one.spans[own] - shift)


def prolonged(
    prompt: Encoding, whole: Encoding, text: str, end: int, encode: Callable[[str], Encoding]
) -> Encoding:
    """The tokens of `text`, the first of which are those of its prompt, whatever comes after it.

    Args:
        prompt: of `text[:end]`.
        whole: of `text`; kept where it begins with the prompt's tokens.
        encode: encodes the rest of `text`, or that with a line break before it, where a token of
            `whole` joins the two.
    """
    count = len(prompt.ids)
    same = np.array_equal(whole.ids[:count], prompt.ids)
    if same and (whole.spans[:count, 1] <= end).all():
        return whole
    return joined([prompt, moved(encode_inside(encode, text[end:]), end)])
