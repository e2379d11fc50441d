"""Compares the text of training with that of test examples: equal, same prompt, shared words.

All texts are folded first: NFKC, case folding, NFKC, then every run of white space one space.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.leakage.ngrams import TEMPLATE_ROWS, NgramIndex
from zsg_jax.leakage.options import LeakageOptions

EXACT, PROMPT, NGRAM = "exact", "prompt", "ngram"
PAIRS = 1 << 20  # pairs of examples held at a time
_FOLDED = "after NFKC, case folding and folding of white space"


class LeakingPairs(NamedTuple):
    """Pairs of a training and a test example that share something; distinct, by training example.

    Attributes:
        kind: what they share.
        train: (P,) int64 indices of training examples, ascending.
        test: (P,) int64 indices of test examples.
        measure: (P,) how much: cosines float32, counts of n-grams int32, or 1 for other kinds.
    """

    kind: str
    train: np.ndarray
    test: np.ndarray
    measure: np.ndarray

    def part(self, of: slice) -> "LeakingPairs":
        """Some of the pairs."""
        return LeakingPairs(self.kind, self.train[of], self.test[of], self.measure[of])


class TestTexts:
    """The texts of the test examples, with which any number of training examples are compared.

    Attributes:
        rules: what each kind means, in words.
        of_template: (n,) bool, examples of the batch compared last that have an n-gram which was
            taken for template.
    """

    __test__ = False  # no test, though pytest takes the name for one
    of_template = np.zeros(0, bool)

    def __init__(self, test: Sequence[Instance], options: LeakageOptions) -> None:
        words, share = options.words, options.task_share
        self.rules = {
            EXACT: f"same prompt and an answer that the test row accepts, {_FOLDED}",
            PROMPT: f"same prompt (all turns but the answer) with another answer, {_FOLDED}",
            NGRAM: (
                f"at least one run of {words} words (\\w+, or one character where a script has no "
                f"spaces) of prompt and answer in common, {_FOLDED}; runs in more than "
                f"{options.max_test_rows} test rows, or in {TEMPLATE_ROWS} or more and more than "
                f"{share:g} of a test task's rows, are template, and runs with a word of these do "
                "not count"
            ),
        }
        of_prompt: dict[str, list[int]] = {}
        of_answer: dict[tuple[str, str], list[int]] = {}
        texts = []
        for index, example in enumerate(test):
            prompt, answer = _folded(example)
            texts.append(f"{prompt} {answer}")
            of_prompt.setdefault(prompt, []).append(index)
            for accepted in {answer, *map(fold, example.references)}:
                of_answer.setdefault((prompt, accepted), []).append(index)
        self._of_prompt = {key: np.array(found) for key, found in of_prompt.items()}
        self._of_answer = {key: np.array(found) for key, found in of_answer.items()}
        self.ngrams = NgramIndex(texts, [example.task for example in test], options)
        # How many training examples have each n-gram, of those compared so far.
        self._counts = np.zeros(len(self.ngrams.first), np.int64)

    def compare(self, train: Sequence[Instance], start: int = 0) -> Iterator[LeakingPairs]:
        """All pairs of these with test examples, in blocks, each kind by training example.

        Args:
            train: a batch of examples; a thousand at a time is fast.
            start: the index of the first one.
        """
        texts = []
        for index, example in enumerate(train, start):
            prompt, answer = _folded(example)
            texts.append(f"{prompt} {answer}")
            same = self._of_prompt.get(prompt)
            if same is None:
                continue
            equal = self._of_answer.get((prompt, answer), same[:0])
            for kind, found in ((EXACT, equal), (PROMPT, np.setdiff1d(same, equal))):
                if len(found):
                    ones = np.ones_like(found)
                    yield LeakingPairs(kind, np.full_like(found, index), found, ones)
        ngrams = self.ngrams
        hits = ngrams.find(texts)
        self.of_template = hits @ ngrams.common.astype(np.int32) > 0
        self._counts += np.bincount(hits.indices, minlength=len(self._counts))
        # A product of sparse arrays never lists an n-gram's test examples one by one.
        most = np.minimum(hits @ np.diff(ngrams.holders.indptr), ngrams.holders.shape[1])
        block = np.cumsum(most) // PAIRS
        for number in np.unique(block[most > 0]):
            part = np.flatnonzero((block == number) & (most > 0))
            shared = hits[part] @ ngrams.holders
            shared.sort_indices()
            of = np.repeat(part, np.diff(shared.indptr)).astype(np.int64)
            yield LeakingPairs(NGRAM, start + of, shared.indices.astype(np.int64), shared.data)

    def first_shared(self, train: Instance, test_index: int) -> str:
        """The first n-gram of the test set that this training example shares with a test example.

        Raises:
            ValueError: they share none.
        """
        grams = self.ngrams.find([" ".join(_folded(train))]).indices
        held = self.ngrams.holders[grams][:, [test_index]].toarray().ravel()
        grams = grams[held > 0]
        if not len(grams):
            raise ValueError(f"{train.id} shares no n-gram with test example {test_index}")
        return self.ngrams.text(grams[np.argmin(self.ngrams.first[grams])])

    def most_shared(self, count: int) -> dict[str, int]:
        """The n-grams that most training examples have, and how many; a template shows here."""
        counts = np.where(self.ngrams.content, self._counts, 0)
        best = np.lexsort((self.ngrams.first, -counts))[:count]
        return {self.ngrams.text(gram): int(counts[gram]) for gram in best if counts[gram]}

    @property
    def unchecked(self) -> int:
        """Test examples without any n-gram to look for: too short, or all of it template."""
        holders = self.ngrams.holders
        return holders.shape[1] - len(np.unique(holders.indices))


def fold(text: str) -> str:
    """Text as it is compared: NFKC, case folding, NFKC again, runs of white space as one space."""
    if text.isascii():
        return " ".join(text.lower().split())
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.split())


def _folded(instance: Instance) -> tuple[str, str]:
    """Prompt, which is all turns but the answer, and answer; "" where there is none."""
    prompt = [fold(turn.text) for turn in instance.turns]
    answer = prompt.pop() if instance.answered else ""
    return " ".join(part for part in prompt if part), answer
