"""Finds the runs of words that training texts share with test texts, a batch of texts at a time."""

import re
from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import count

import numpy as np
from scipy.sparse import csr_array

from zsg_jax.runtime.errors import check

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
        self,
        texts: Sequence[str],
        tasks: Sequence[Hashable],
        *,
        words: int,
        max_test_rows: int,
        task_share: float,
    ) -> None:
        check(words >= 1, f"words={words}: an n-gram needs at least 1 word")
        check(max_test_rows >= 1, f"max_test_rows={max_test_rows}: it must be at least 1")
        check(0 <= task_share <= 1, f"task_share={task_share}: it must be from 0 to 1")
        self._words = words
        numbers: dict[str, int] = defaultdict(count().__next__)
        grams: dict[bytes, int] = defaultdict(count().__next__)
        # Of every place at which an n-gram stands: where, which n-gram, in which text.
        start, gram, text = array("q"), array("q"), array("q")
        length = 0
        for number, content in enumerate(texts):
            ids = array("i", map(numbers.__getitem__, WORD.findall(content)))
            found = [grams[key] for key in self._keys(ids)]
            start.extend(range(length, length + len(found)))
            gram.extend(found)
            text.extend([number] * len(found))
            length += len(ids)
        self._numbers, self._grams = dict(numbers), dict(grams)
        self._names, self._by_number = list(numbers), list(grams)
        starts, of_gram, of_text = (np.array(column, np.int64) for column in (start, gram, text))
        self.common = _common(of_gram, of_text, tasks, len(grams), max_test_rows, task_share)
        kept = ~_touched(starts, self.common[of_gram], length, words)
        self.first = np.full(len(grams), NEVER)
        np.minimum.at(self.first, of_gram[kept], starts[kept])
        pair = np.unique(of_gram[kept] * len(texts) + of_text[kept])
        shape = len(grams), len(texts)
        self.holders = csr_array((np.ones(len(pair), np.int32), _split(pair, len(texts))), shape)

    @property
    def content(self) -> np.ndarray:
        """(n-grams,) bool: those that some test text holds as content."""
        return self.first < NEVER

    def find(self, texts: Sequence[str]) -> csr_array:
        """(len(texts), n-grams) sparse int32: 1 where a text holds an n-gram of the test texts."""
        number, gram = self._numbers.get, self._grams.get
        found, ends = array("q"), [0]
        for text in texts:
            ids = array("i", (number(word, UNKNOWN) for word in WORD.findall(text)))
            found.extend(sorted({gram(key, UNKNOWN) for key in self._keys(ids)} - {UNKNOWN}))
            ends.append(len(found))
        ones = np.ones(len(found), np.int32)
        return csr_array((ones, np.array(found, np.int64), ends), (len(texts), len(self._grams)))

    def text(self, gram: int) -> str:
        """The words of an n-gram, with a space between them."""
        return " ".join(self._names[i] for i in np.frombuffer(self._by_number[gram], np.int32))

    def _keys(self, ids: array) -> Iterator[bytes]:
        """The runs of `words` numbers, each as its bytes."""
        data, width, size = ids.tobytes(), ids.itemsize, ids.itemsize * self._words
        return (data[at : at + size] for at in range(0, len(data) - size + 1, width))


def _common(
    gram: np.ndarray,
    text: np.ndarray,
    tasks: Sequence[Hashable],
    grams: int,
    max_test_rows: int,
    task_share: float,
) -> np.ndarray:
    """(grams,) bool by the rule of `NgramIndex`; gram and text are of every place."""
    gram, text = _split(np.unique(gram * len(tasks) + text), len(tasks))
    counts = np.bincount(gram, minlength=grams)
    common = counts > max_test_rows
    numbers: dict[Hashable, int] = defaultdict(count().__next__)
    task = np.array([numbers[name] for name in tasks], np.int64)
    sizes = np.bincount(task)
    # What few texts share, nearly everything, is no task's template.
    some = counts[gram] >= TEMPLATE_ROWS
    keys, counts = np.unique(gram[some] * len(sizes) + task[text[some]], return_counts=True)
    gram, task = _split(keys, len(sizes))
    common[gram[(counts >= TEMPLATE_ROWS) & (counts > task_share * sizes[task])]] = True
    return common


def _touched(starts: np.ndarray, common: np.ndarray, length: int, words: int) -> np.ndarray:
    """Which runs have a word of a common run; starts and common are of every run."""
    edges = np.zeros(length + 1, np.int64)
    np.add.at(edges, starts[common], 1)
    np.add.at(edges, starts[common] + words, -1)
    template = np.concatenate([[0], np.cumsum(np.cumsum(edges[:-1]) > 0)])
    return template[starts + words] > template[starts]


def _split(keys: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The two numbers of each key, which is the first times `size` plus the second."""
    return np.divmod(keys, max(size, 1))
