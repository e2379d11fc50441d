"""Scores a text against accepted answers: ROUGE and exact match, each from 0 to 100.

`rouge` and `exact_match` are Super-NaturalInstructions' (arXiv 2204.07705, section 5.1), as the
arrangement study takes them (arXiv 2406.11721, section 3). They see ASCII alone: "да" and "?" have
no ROUGE even with themselves, and "-1" matches "1". The `_unicode` ones beside them are our own.
"""

import string
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import regex

from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.runtime.errors import UserError, check, did_you_mean

ROUGE = ("rouge1", "rouge2", "rougeL")
KEPT = 16384  # texts whose words, and words whose stems, are remembered: they come again
_PUNCTUATION = str.maketrans("", "", string.punctuation)
# Scripts that put no space between words: there each letter with its marks is a token.
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
_WORD = regex.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})[\p{{L}}\p{{N}}\p{{M}}_])+")
# A sign, digits with single marks between them, and a percent sign.
_NUMBER = r"(?<![\p{L}\p{N}])[-+]?[.,]?\p{Nd}+(?:[^\p{L}\p{N}\s]\p{Nd}+)*[%‰]?"
_NUMBER_OR_PUNCTUATION = regex.compile(rf"({_NUMBER})|\p{{P}}")


class Metric(NamedTuple):
    """What a user asks for by one name.

    Attributes:
        fields: what it gives.
        score: a text, its references and a tokenizer or None → a number for each of `fields`.
    """

    fields: tuple[str, ...]
    score: Callable[[str, Sequence[str], Tokenizer | None], Sequence[float]]


def score(
    text: str,
    references: Sequence[str],
    metrics: Iterable[str],
    tokenizer: Tokenizer | None = None,
) -> dict[str, float]:
    """The scores of a text, each the best over its references, 0 to 100.

    Args:
        text: what was generated; "" for nothing.
        references: accepted answers, at least one.
        metrics: names from `METRICS`.
        tokenizer: whose tokens `rouge` counts instead of stemmed English words: GPT-2's for
            Super-NaturalInstructions' cross-lingual track.

    Returns:
        Field → score, the fields of each metric in its order.

    Raises:
        UserError: a metric is unknown, or there is no reference.
    """
    check(bool(references), "a text without a reference cannot be scored; give it an answer")
    found: dict[str, float] = {}
    for name in metrics:
        metric = METRICS.get(name)
        if metric is None:
            raise UserError(
                f"there is no score {name!r}; choose from {', '.join(METRICS)}"
                + did_you_mean(name, METRICS)
            )
        found |= zip(metric.fields, metric.score(text, references, tokenizer), strict=True)
    return found


def normalized(text: str) -> str:
    """Lower case, without ASCII punctuation, white space folded; articles stay."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def normalized_unicode(text: str) -> str:
    """Case folded, NFC, white space folded, without punctuation outside of numbers.

    What is nothing but punctuation keeps it, and symbols stay: "-1" is not "1", "3.5" not "35",
    "5%" not "5", "?" not "!".
    """
    folded = " ".join(_folded(text).split())
    bare = _NUMBER_OR_PUNCTUATION.sub(lambda found: found[1] or "", folded)
    return " ".join(bare.split()) or folded


def words_unicode(text: str) -> list[str]:
    """Case-folded runs of letters, digits and their marks, in NFC.

    Chinese, Japanese, Thai and the like put no space between words: each letter is a token. Of a
    text without any of these, every symbol is.
    """
    folded = _folded(text)
    return _WORD.findall(folded) or list("".join(folded.split()))


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    """The tokens of a text as the vocabulary spells them, without the mark of a leading space."""
    mark = "".join(tokenizer.spelled(" "))[:1]
    return [one.lstrip(mark or " ") for one in tokenizer.spelled(text)]


def _folded(text: str) -> str:
    minus = text.replace("\N{MINUS SIGN}", "-")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", minus).casefold())


class _Words(NamedTuple):
    """What rouge-score asks for the words of a text."""

    tokenize: Callable[[str], list[str]]


class _Stemmer(NamedTuple):
    """What rouge-score asks for the stem of a word."""

    stem: Callable[[str], str]


@cache
def _scorer(tokenizer: Tokenizer | str) -> Any:
    # Its import takes seconds, which only those should wait who score something.
    from nltk.stem.porter import PorterStemmer
    from rouge_score import rouge_scorer, tokenize

    words: Callable[[str], list[str]] = words_unicode
    if isinstance(tokenizer, Tokenizer):
        words = partial(tokens, tokenizer)
    elif tokenizer == "english":
        stemmer = _Stemmer(lru_cache(KEPT)(PorterStemmer().stem))
        words = partial(tokenize.tokenize, stemmer=stemmer)
    remembered = _Words(lru_cache(KEPT)(words))
    return rouge_scorer.RougeScorer(ROUGE[:2], tokenizer=remembered), remembered.tokenize


def _best_rouge(text: str, references: Sequence[str], tokenizer: Tokenizer | str) -> list[float]:
    scorer, words = _scorer(tokenizer)
    best = scorer.score_multi(references, text)
    long = max(_rouge_l(words(text), words(one)) for one in references)
    return [*(100 * float(best[name].fmeasure) for name in ROUGE[:2]), 100 * long]


def _rouge_l(text: Sequence[str], reference: Sequence[str]) -> float:
    """ROUGE-L of words as rouge-score has it, whose table of every pair of words takes long.

    Here a row of that table is the bits of one integer, 0 where it rises (Hyyrö 2004, "Bit-parallel
    LCS-length computation revisited").
    """
    places: dict[str, int] = {}
    for place, word in enumerate(reference):
        places[word] = places.get(word, 0) | 1 << place
    row = whole = (1 << len(reference)) - 1
    for word in text:
        there = row & places.get(word, 0)
        row = ((row + there) | (row - there)) & whole
    common = len(reference) - row.bit_count()
    return 2 * common / (len(text) + len(reference)) if common else 0.0


def _rouge(text: str, references: Sequence[str], tokenizer: Tokenizer | None) -> list[float]:
    return _best_rouge(text, references, tokenizer or "english")


def _rouge_unicode(text: str, references: Sequence[str], _: Tokenizer | None) -> list[float]:
    words = words_unicode(text)
    if words and any(words == words_unicode(one) for one in references):
        return [100.0] * len(ROUGE)  # a single word has no pair of words, and is right all the same
    return _best_rouge(text, references, "unicode")


def _match(normalize: Callable[[str], str]) -> Callable[..., list[float]]:
    def exact(text: str, references: Sequence[str], _: Tokenizer | None) -> list[float]:
        return [100.0 * (normalize(text) in map(normalize, references))]

    return exact


METRICS = {
    "rouge": Metric(ROUGE, _rouge),
    "exact_match": Metric(("exact_match",), _match(normalized)),
    "rouge_unicode": Metric(tuple(f"{name}_unicode" for name in ROUGE), _rouge_unicode),
    "exact_match_unicode": Metric(("exact_match_unicode",), _match(normalized_unicode)),
}
