"""Finds the runs of words that training texts share with test texts, a batch of texts at a time.

Words become numbers, runs of them 64-bit hashes, and what hashes alike is compared word by word, so
that the answers are exact. NumPy does all of it but the splitting into words.
"""

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from itertools import count, repeat

import numpy as np
from scipy.sparse import csr_array

from zsg_jax.runtime.errors import check

# Scripts that put no space between words: Thai to Lao, Burmese, Khmer, Japanese, Chinese.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
TEMPLATE_ROWS = 3  # fewer rows of a task that share words tell nothing of a template
UNKNOWN, END = -1, -2  # in place of a word's number: a word of no test text, the end of a text


class NgramIndex:
    r"""The n-grams of the test texts, but for those that are template rather than content.

    A word is a run of letters, digits and underscores, or one character of a script that puts no
    spaces between words; n-grams run over line breaks. An n-gram is common if it stands in
    more than `max_test_rows` test texts, or in `TEMPLATE_ROWS` texts or more of one task and more
    than `task_share` of that task's texts: task definitions and prompt templates do, a passage
    under several questions does not. Words of a common n-gram are template, and only n-grams
    without such words are looked for: a definition and the two words that happen to follow it in
    some row tell nothing of that row. With `template` the common n-grams are looked for instead.

    Attributes:
        words: n.
        common: distinct n-grams that are common.
        rows: (n-grams, test texts) sparse int32, 1 where a text holds an n-gram without template;
            n-grams are numbered as they come in the test texts.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tasks: Sequence[Hashable],
        *,
        words: int,
        max_test_rows: int,
        task_share: float,
        template: bool = False,
    ):
        check(words >= 1, f"words={words}: an n-gram needs at least 1 word")
        check(max_test_rows >= 1, f"max_test_rows={max_test_rows}: it must be at least 1")
        check(0 <= task_share <= 1, f"task_share={task_share}: it must be from 0 to 1")
        self.words = words
        numbers: dict[str, int] = defaultdict(count().__next__)
        self._ids = _lay(texts, lambda found: map(numbers.__getitem__, found))
        starts, row = _windows(self._ids, words)
        # By hash, then by place: so rows of one n-gram ascend.
        self._factors, hashes, order, gram = _distinct(self._ids, starts, words)
        starts, row, hashes = starts[order], row[order], hashes[order]
        common = _common(gram, row, tasks, max_test_rows, task_share)
        self.common = int(common.sum())
        of_template = common[gram]
        kept = of_template if template else ~_touched(starts, of_template, len(self._ids), words)
        starts, row, hashes = starts[kept], row[kept], hashes[kept]
        head = np.diff(gram[kept], prepend=-1) > 0
        by_place = np.argsort(starts[head])
        self._first = starts[head][by_place]
        # Ascending by hash, each with the number of its n-gram.
        self._hashes, self._grams = hashes[head], np.argsort(by_place)
        gram, row = _distinct_pairs(np.cumsum(head) - 1, row)
        self.rows = _ones(self._grams[gram], row, (len(by_place), len(texts)))
        self._shift, self._maybe = _filter(self._hashes)
        self._names = list(numbers)
        used = np.zeros(len(numbers), bool)
        for place in range(words):
            used[self._ids[self._first + place]] = True
        self._numbers = {word: i for word, i in numbers.items() if used[i]}

    def find(self, texts: Sequence[str]) -> csr_array:
        """(len(texts), n-grams) sparse int32: 1 where a text holds an n-gram of `rows`."""
        shape = (len(texts), len(self._first))
        number = self._numbers.get
        ids = _lay(texts, lambda found: map(number, found, repeat(UNKNOWN)))
        starts, row = _windows(ids, self.words)
        hashes = _hash(ids, starts, self._factors)
        maybe = self._maybe[hashes >> self._shift]
        starts, row, hashes = starts[maybe], row[maybe], hashes[maybe]
        place = np.searchsorted(self._hashes, hashes)
        same = place < len(self._hashes)
        same[same] = self._hashes[place[same]] == hashes[same]
        starts, row, gram = starts[same], row[same], self._grams[place[same]]
        same = _same_words(ids, starts, self._ids, self._first[gram], self.words)
        row, gram = row[same], gram[same]
        order = np.lexsort((gram, row))
        return _ones(*_distinct_pairs(row[order], gram[order]), shape)

    def text(self, gram: int) -> str:
        """The words of an n-gram, with a space between them."""
        start = self._first[gram]
        return " ".join(self._names[i] for i in self._ids[start : start + self.words])


def _lay(texts: Sequence[str], numbers: Callable) -> np.ndarray:
    """Numbers of all words one after the other, int32, `END` after every text."""
    flat = array("i")
    for text in texts:
        flat.extend(numbers(WORD.findall(text)))
        flat.append(END)
    return np.array(flat, np.int32)


def _windows(ids: np.ndarray, words: int) -> tuple[np.ndarray, np.ndarray]:
    """First places, ascending, of all runs of known words of one text; and each one's text."""
    bad = np.concatenate([[0], np.cumsum(ids < 0)])
    starts = np.flatnonzero(bad[words:] == bad[:-words])
    return starts, np.searchsorted(np.flatnonzero(ids == END), starts)


def _hash(ids: np.ndarray, starts: np.ndarray, factors: np.ndarray) -> np.ndarray:
    out = np.zeros(len(starts), np.uint64)
    for place, factor in enumerate(factors):
        out += ids[starts + place].astype(np.uint64) * factor
    return out


def _same_words(
    ids: np.ndarray, starts: np.ndarray, others: np.ndarray, other_starts: np.ndarray, words: int
) -> np.ndarray:
    same = np.ones(len(starts), bool)
    for place in range(words):
        same &= ids[starts + place] == others[other_starts + place]
    return same


def _distinct(
    ids: np.ndarray, starts: np.ndarray, words: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Factors that give different n-grams different hashes; the hashes; their order; n-grams.

    The last tells, in that order, which of the distinct n-grams stands there, counted from 0.
    """
    attempt = 0
    while True:
        factors = _factors(words, attempt)
        hashes = _hash(ids, starts, factors)
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        left, right = starts[order[alike]], starts[order[alike + 1]]
        if _same_words(ids, left, ids, right, words).all():
            head = np.ones(len(order), bool)
            head[alike + 1] = False
            return factors, hashes, order, np.cumsum(head) - 1
        attempt += 1


def _factors(words: int, attempt: int) -> np.ndarray:
    """(words,) odd uint64, other ones at every attempt."""
    return np.random.default_rng(attempt).integers(2**64, size=words, dtype=np.uint64) | np.uint64(
        1
    )


def _filter(hashes: np.ndarray) -> tuple[np.uint64, np.ndarray]:
    """A table of the first bits of all hashes: most words of a text are no one's, seen by one look.

    Searching the sorted hashes costs many looks, each at another place of the memory.
    """
    bits = min(26, max(10, int(8 * len(hashes)).bit_length()))
    shift = np.uint64(64 - bits)
    table = np.zeros(1 << bits, bool)
    table[hashes >> shift] = True
    return shift, table


def _common(
    gram: np.ndarray,
    row: np.ndarray,
    tasks: Sequence[Hashable],
    max_test_rows: int,
    task_share: float,
) -> np.ndarray:
    """(distinct n-grams,) bool by the rule of `NgramIndex`; gram and row are of every place."""
    gram, row = _distinct_pairs(gram, row)
    counts = np.bincount(gram)
    common = counts > max_test_rows
    number: dict[Hashable, int] = defaultdict(count().__next__)
    task = np.array([number[name] for name in tasks], np.int64)
    sizes = np.bincount(task)
    # What few rows share, nearly everything, is no task's template.
    some = counts[gram] >= TEMPLATE_ROWS
    keys = gram[some] * max(len(sizes), 1) + task[row[some]]
    keys, counts = np.unique(keys, return_counts=True)
    gram, task = np.divmod(keys, max(len(sizes), 1))
    common[gram[(counts >= TEMPLATE_ROWS) & (counts > task_share * sizes[task])]] = True
    return common


def _touched(starts: np.ndarray, common: np.ndarray, length: int, words: int) -> np.ndarray:
    """Which runs have a word of a common run; starts and common are of every run."""
    edges = np.zeros(length + 1, np.int64)
    edges[starts[common]] += 1
    edges[starts[common] + words] -= 1
    template = np.concatenate([[0], np.cumsum(np.cumsum(edges[:-1]) > 0)])
    return template[starts + words] > template[starts]


def _distinct_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs without repeats; equal ones must stand side by side."""
    new = np.ones(len(a), bool)
    new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return a[new], b[new]


def _ones(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """1 at the given places, all different."""
    return csr_array((np.ones(len(row), np.int32), (row, column)), shape=shape)
