"""Embeddings from hashed n-grams: no weights, no download, the same numbers on every machine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import HashingVectorizer

from zsg_jax.runtime.errors import check
from zsg_jax.similarity.embeddings import unit_embeddings

SCHEME = "hashing-1"  # changes whenever the same text would give another embedding
CHARACTERS = (2, 4)
WORDS = (1, 2)
BATCH = 1024


class HashingEncoder:
    """Bags of character and word n-grams, hashed with a sign into a fixed number of columns.

    Character n-grams of length 2 to 4 stay inside a word (a space marks its ends), which tells
    short strings without words apart, such as those of string rewriting; words and pairs of words
    tell instructions apart. Counts c become sign(c) · log(1 + |c|), so that a repeated phrase
    does not drown the rest. An embedding depends on its own text.

    Attributes:
        name: the encoder's name in file names and reports.
        dimension: columns of an embedding.
        fingerprint: changes whenever the same text would give another embedding.
        prompts, default_prompt: there are none.
        conversations: False.
    """

    def __init__(self, dimension: int = 1024):
        check(dimension >= 1, f"hashing encoder: dimension={dimension}; it must be at least 1")
        self.name = "hashing"
        self.prompts: Mapping[str, str] = {}
        self.default_prompt: str | None = None
        self.conversations = False
        self.dimension = dimension
        self.fingerprint = (
            f"{SCHEME};dimension={dimension};characters={CHARACTERS};words={WORDS};"
            "lowercase;murmur3;signed;log1p"
        )
        hashed: dict[str, Any] = {
            "n_features": dimension,
            "alternate_sign": True,
            "norm": None,
            "dtype": np.float64,
        }
        self._characters = HashingVectorizer(
            analyzer="char_wb", ngram_range=CHARACTERS, lowercase=False, **hashed
        )
        # The usual pattern skips words of one letter; in string rewriting they matter.
        analyze = HashingVectorizer(
            ngram_range=WORDS, token_pattern=r"(?u)\b\w+\b", lowercase=False
        ).build_analyzer()
        # The prefix keeps the word "ab" and the characters "ab" in columns of their own.
        self._words = HashingVectorizer(
            analyzer=lambda text: ["w:" + gram for gram in analyze(text)], **hashed
        )

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """Embeds texts; an empty one gives zeros.

        Args:
            texts: n strings.
            on_progress: called with the number of texts finished since the last call.

        Returns:
            (n, dimension) float32 of length one.
        """
        out = np.zeros((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), BATCH):
            counts = self._counts(texts[start : start + BATCH])
            out[start : start + BATCH] = unit_embeddings(np.sign(counts) * np.log1p(np.abs(counts)))
            if on_progress is not None:
                on_progress(len(counts))
        return out

    def _counts(self, texts: Sequence[str]) -> np.ndarray:
        # Half a surrogate pair, as broken JSON has it, cannot be hashed.
        lower = [text.encode("utf-8", "replace").decode("utf-8").lower() for text in texts]
        # Character n-grams end at a word's ends, so each different word is taken apart once.
        number: dict[str, int] = {}
        in_text = [[number.setdefault(word, len(number)) for word in t.split()] for t in lower]
        counts = self._words.transform(lower)
        if number:
            columns = np.concatenate([np.array(words, np.int64) for words in in_text])
            ends = np.cumsum([0, *map(len, in_text)])
            ones = np.ones(len(columns))
            occurrences = csr_array((ones, columns, ends), shape=(len(texts), len(number)))
            counts = counts + occurrences @ self._characters.transform(list(number))
        return counts.toarray()
