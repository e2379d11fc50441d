"""Embeddings from hashed n-grams: no weights, no download, the same numbers on every machine."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer

from zsg_jax.errors import check
from zsg_jax.similarity.rows import unit_rows

SCHEME = "hashing-1"  # changes whenever the same text would give another row
CHARACTERS = (2, 4)
WORDS = (1, 2)
BATCH = 256


class HashingEncoder:
    """Bags of character and word n-grams, hashed with a sign into a fixed number of columns.

    Character n-grams of length 2 to 4 stay inside a word (a space marks its ends), which tells
    short strings without words apart, such as those of string rewriting; words and pairs of words
    tell instructions apart. Counts c become sign(c) · log(1 + |c|), so that a repeated phrase
    does not drown the rest. A row depends on its own text only.

    Attributes:
        name: the encoder's name in file names and reports.
        dimension: columns of an embedding.
        fingerprint: changes whenever the same text would give another row.
    """

    def __init__(self, dimension: int = 1024):
        check(dimension >= 1, f"hashing encoder: dimension={dimension}; it must be at least 1")
        self.name = "hashing"
        self.dimension = dimension
        self.fingerprint = (
            f"{SCHEME};dimension={dimension};characters={CHARACTERS};words={WORDS};"
            "lowercase;murmur3;signed;log1p"
        )
        characters = HashingVectorizer(analyzer="char_wb", ngram_range=CHARACTERS)
        # The usual pattern skips words of one letter; in string rewriting they matter.
        words = HashingVectorizer(ngram_range=WORDS, token_pattern=r"(?u)\b\w+\b")
        by_character, by_word = characters.build_analyzer(), words.build_analyzer()

        def analyze(text: str) -> list[str]:
            # Half a surrogate pair, as broken JSON has it, cannot be hashed.
            text = text.encode("utf-8", "replace").decode("utf-8")
            # The prefix keeps the word "ab" and the characters "ab" in columns of their own.
            return by_character(text) + ["w:" + gram for gram in by_word(text)]

        self._vectorizer = HashingVectorizer(
            analyzer=analyze, n_features=dimension, alternate_sign=True, norm=None, dtype=np.float64
        )

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """Embeds texts; an empty one gives a zero row.

        Args:
            texts: n strings.
            on_progress: called with the number of texts finished since the last call.

        Returns:
            (n, dimension) float32 unit rows.
        """
        out = np.zeros((len(texts), self.dimension), np.float32)
        for start in range(0, len(texts), BATCH):
            counts = self._vectorizer.transform(texts[start : start + BATCH]).toarray()
            out[start : start + BATCH] = unit_rows(np.sign(counts) * np.log1p(np.abs(counts)))
            if on_progress is not None:
                on_progress(len(counts))
        return out
