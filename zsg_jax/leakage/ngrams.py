"""Finds the runs of words that training texts share with test texts, a batch of texts at a time."""

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import count

import numpy as np
from scipy.sparse import csr_array

from zsg_jax.leakage.options import LeakageOptions

# Scripts that put no space between words: Thai to Lao, Burmese, Khmer, Japanese, Chinese.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
TEMPLATE_ROWS = 3  # fewer texts of a task that share words tell nothing of a template
UNKNOWN = -1  # in place of a word's number: a word of no test text
NEVER = np.iinfo(np.int64).max


class NgramIndex:
    r"""The n-grams of the test texts, and which of them are content rather than template.

    A word is a run of letters, digits and underscores, or one character of a script that puts no
    spaces between words; n-grams run over line breaks. An n-gram is common if it stands in
    more than `max_test_rows` test texts, or in `TEMPLATE_ROWS` texts or more of one task and more
    than `task_share` of that task's texts: task definitions and prompt templates do, a passage
    under several questions does not. Words of a common n-gram are template, and n-grams with such
    words are no content: a definition and the two words that happen to follow it in some text say
    nothing about that text.

    Attributes:
        common: (n-grams,) bool.
        holders: (n-grams, test texts) sparse int32, 1 where a text holds an n-gram as content.
        first: (n-grams,) int64, rises with the place at which each first stands as content in the
            test texts; `NEVER` of those that never do.
    """

    def __init__(
        self, texts: Sequence[str], tasks: Sequence[Hashable], options: LeakageOptions
    ) -> None:
        self._words = words = options.words
        numbers: dict[str, int] = defaultdict(count().__next__)
        grams: dict[bytes, int] = defaultdict(count().__next__)
        # Of every place at which an n-gram stands: where, in which text, and which n-gram.
        start, text, keys = self._runs(texts, numbers.__getitem__)
        gram = np.fromiter(map(grams.__getitem__, keys), np.int64, len(start))
        self._numbers, self._grams = dict(numbers), dict(grams)
        self._names, self._by_number = list(numbers), list(grams)
        shape = len(grams), len(texts)
        self.common = _common(_held(gram, text, shape), tasks, options)
        kept = ~_touched(start, self.common[gram], words)
        self.holders = _held(gram[kept], text[kept], shape)
        self.first = np.full(len(grams), NEVER)
        # Of several values for one n-gram the last is kept, which is its first place.
        self.first[gram[kept][::-1]] = start[kept][::-1]

    @property
    def content(self) -> np.ndarray:
        """(n-grams,) bool: those that some test text holds as content."""
        return self.first < NEVER

    def find(self, texts: Sequence[str]) -> csr_array:
        """(len(texts), n-grams) sparse int32: 1 where a text holds an n-gram of the test texts."""
        number, of = self._numbers.get, self._grams.get
        start, text, keys = self._runs(texts, lambda word: number(word, UNKNOWN))
        gram = np.fromiter((of(key, UNKNOWN) for key in keys), np.int64, len(start))
        known = gram != UNKNOWN
        return _held(text[known], gram[known], (len(texts), len(self._grams)))

    def text(self, gram: int) -> str:
        """The words of an n-gram, with a space between them."""
        return " ".join(self._names[i] for i in np.frombuffer(self._by_number[gram], np.int32))

    def _runs(
        self, texts: Sequence[str], number: Callable[[str], int]
    ) -> tuple[np.ndarray, np.ndarray, Iterator[bytes]]:
        """Runs of `words` known words: first places, ascending, texts, and numbers as bytes.

        Places count the words of all texts, one text after the other.
        """
        ids, ends = array("i"), []
        for text in texts:
            ids.extend(map(number, WORD.findall(text)))
            ids.append(UNKNOWN)  # no run goes on into the next text
            ends.append(len(ids))
        unknown = np.concatenate([[0], np.cumsum(np.frombuffer(ids, np.int32) == UNKNOWN)])
        starts = np.flatnonzero(unknown[self._words :] == unknown[: -self._words])
        data, width = ids.tobytes(), ids.itemsize
        size = width * self._words
        keys = (data[at : at + size] for at in (starts * width).tolist())
        return starts, np.searchsorted(ends, starts, side="right"), keys


def _held(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """Sparse int32: 1 wherever a place is given, once or more often."""
    held = csr_array((np.ones(len(row), np.int32), (row, column)), shape)
    held.data[:] = 1
    return held


def _common(holders: csr_array, tasks: Sequence[Hashable], options: LeakageOptions) -> np.ndarray:
    """(n-grams,) bool by the rule of `NgramIndex`; `holders`: the texts of each n-gram."""
    numbers: dict[Hashable, int] = defaultdict(count().__next__)
    task = np.array([numbers[name] for name in tasks], np.int64)
    sizes = np.bincount(task)
    of_task = _held(np.arange(len(task)), task, (len(task), len(sizes)))
    by_task = holders @ of_task
    template = by_task.data >= TEMPLATE_ROWS
    template &= by_task.data > options.task_share * sizes[by_task.indices]
    common = np.diff(holders.indptr) > options.max_test_rows
    common[np.repeat(np.arange(len(common)), np.diff(by_task.indptr))[template]] = True
    return common


def _touched(starts: np.ndarray, common: np.ndarray, words: int) -> np.ndarray:
    """Which runs have a word of a common run; starts and common are of every run, ascending."""
    edges = np.zeros((starts[-1] if len(starts) else 0) + words + 1, np.int64)
    edges[starts[common]] += 1
    edges[starts[common] + words] -= 1
    template = np.concatenate([[0], np.cumsum(np.cumsum(edges[:-1]) > 0)])
    return template[starts + words] > template[starts]
