"""KL divergence of word n-grams: how unlike the words seen are to those of the test set.

KL = Σ_x p(x)·log(p(x) / (q(x) + 1e-10)) over the n-grams x of the texts seen, p their shares there
and q their shares in the test texts (arXiv 2406.11721, similarity). Words are what white space
parts, case and punctuation kept; no n-gram reaches over the end of a text.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import sparse

from zsg_jax.runtime.errors import check

FLOOR = 1e-10


class Divergence:
    """KL of the texts seen so far from each of several groups of test texts, kept up as they come.

    With counts c of the n-grams seen, C their sum, KL = (Σ c·log c - Σ c·log(q + 1e-10)) / C
    - log C. Both sums change only by the n-grams of new texts, so that a step costs what it adds.
    The counts are held in memory, an entry for each different n-gram seen.
    """

    def __init__(self, groups: Sequence[Sequence[str]], n: int = 2) -> None:
        """Counts the test texts.

        Args:
            groups: G lists of texts.
            n: words of an n-gram.

        Raises:
            UserError: n below 1.
        """
        check(n >= 1, f"n={n}: an n-gram has at least 1 word")
        self._n = n
        self._counts: Counter[tuple[str, ...]] = Counter()
        self._total, self._own, self._cross = 0, 0.0, np.zeros(len(groups))
        self._index: dict[tuple[str, ...], int] = {}
        rows, columns, lifts = [], [], []
        for group, texts in enumerate(groups):
            counts = Counter(gram for text in texts for gram in ngrams(text, n))
            total = counts.total()
            for gram, count in counts.items():
                rows.append(self._index.setdefault(gram, len(self._index)))
                columns.append(group)
                # Above log 1e-10, which n-grams that no test text holds have: most of them.
                lifts.append(math.log(count / total + FLOOR) - math.log(FLOOR))
        shape = (len(self._index), len(groups))
        self._lifts = sparse.csr_matrix((lifts, (rows, columns)), shape=shape, dtype=np.float64)

    def add(self, texts: Iterable[str]) -> None:
        """Takes in texts that have been seen."""
        new = Counter(gram for text in texts for gram in ngrams(text, self._n))
        known = [gram for gram in new if gram in self._index]
        for gram, count in new.items():
            before = self._counts[gram]
            self._counts[gram] = after = before + count
            self._own += after * math.log(after) - (before * math.log(before) if before else 0.0)
        self._total += new.total()
        if known:
            known_at = [self._index[gram] for gram in known]
            self._cross += self._lifts[known_at].T @ np.array([new[gram] for gram in known])

    def values(self) -> np.ndarray:
        """(G,) float64 in nats; NaN as long as no text seen has an n-gram."""
        if not self._total:
            return np.full(len(self._cross), np.nan)
        mean = (self._own - self._cross) / self._total
        return mean - math.log(FLOOR) - math.log(self._total)


def ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of a text's words, in order; none where it has fewer than n words."""
    words = text.split()
    return zip(*(words[start:] for start in range(n)), strict=False)
