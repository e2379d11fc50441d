r"""Compares the text of training rows with that of all test rows: equal, same prompt, shared words.

All texts are folded first: NFKC, case folding, NFKC, then every run of white space one space.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.leakage.ngrams import TEMPLATE_ROWS, NgramIndex

EXACT, PROMPT, NGRAM = "exact", "prompt", "ngram"
PAIRS = 1 << 20  # pairs of rows held at a time
_FOLDED = "after NFKC, case folding and folding of white space"


class Pairs(NamedTuple):
    """Training rows that have something of test rows; pairs are distinct and by training row.

    Attributes:
        kind: what they have in common.
        train: (P,) int64 training rows, ascending.
        test: (P,) int64 test rows.
        measure: (P,) how much: cosines float32, counts of n-grams int32, or 1 for other kinds.
    """

    kind: str
    train: np.ndarray
    test: np.ndarray
    measure: np.ndarray


class Overlap:
    """The test rows' texts, ready to be met by any number of training rows.

    Args:
        test: the test rows.
        words: words of an n-gram.
        max_test_rows, task_share: when an n-gram is template: see `NgramIndex`.

    Attributes:
        of_template: (n,) bool, rows of the batch compared last that have an n-gram which was taken
            for template.
    """

    of_template = np.zeros(0, bool)

    def __init__(
        self,
        test: Sequence[Instance],
        *,
        words: int = 13,
        max_test_rows: int = 10,
        task_share: float = 0.5,
    ):
        self.rules = {
            EXACT: f"same prompt and an answer that the test row accepts, {_FOLDED}",
            PROMPT: f"same prompt (all turns but the answer) with another answer, {_FOLDED}",
            NGRAM: (
                f"at least one run of {words} words (\\w+, or one character where a script has no "
                "spaces) of prompt and answer in common, "
                f"{_FOLDED}; runs in more than {max_test_rows} test rows, or in {TEMPLATE_ROWS} or "
                f"more and more than {task_share:g} of a test task's rows, are template, and runs "
                "with a word of these do not count"
            ),
        }
        rows_of_prompt: dict[str, list[int]] = {}
        rows_of_answer: dict[tuple[str, str], list[int]] = {}
        texts = []
        for row, instance in enumerate(test):
            prompt, answer = _folded(instance)
            texts.append(f"{prompt} {answer}")
            rows_of_prompt.setdefault(prompt, []).append(row)
            for accepted in {answer, *map(fold, instance.references)}:
                rows_of_answer.setdefault((prompt, accepted), []).append(row)
        self._of_prompt = {key: np.array(rows) for key, rows in rows_of_prompt.items()}
        self._of_answer = {key: np.array(rows) for key, rows in rows_of_answer.items()}
        self.ngrams, self.templates = (
            NgramIndex(
                texts,
                [instance.task for instance in test],
                words=words,
                max_test_rows=max_test_rows,
                task_share=task_share,
                template=template,
            )
            for template in (False, True)
        )
        # How many training rows have met each n-gram so far.
        self._met = np.zeros(self.ngrams.rows.shape[0], np.int64)

    def compare(self, train: Sequence[Instance], start: int = 0) -> Iterator[Pairs]:
        """All pairs of these training rows with test rows, in blocks, each kind by training row.

        Args:
            train: a batch of rows; a thousand at a time is fast.
            start: the number of the first one.
        """
        texts = []
        for row, instance in enumerate(train, start):
            prompt, answer = _folded(instance)
            texts.append(f"{prompt} {answer}")
            rows = self._of_prompt.get(prompt)
            if rows is None:
                continue
            equal = self._of_answer.get((prompt, answer), rows[:0])
            for kind, found in ((EXACT, equal), (PROMPT, np.setdiff1d(rows, equal))):
                if len(found):
                    yield Pairs(kind, np.full_like(found, row), found, np.ones_like(found))
        self.of_template = np.diff(self.templates.find(texts).indptr) > 0
        hits = self.ngrams.find(texts)
        np.add.at(self._met, hits.indices, 1)
        # A product of sparse arrays never lists an n-gram's test rows one by one.
        most = np.minimum(hits @ np.diff(self.ngrams.rows.indptr), self.ngrams.rows.shape[1])
        block = np.cumsum(most) // PAIRS
        for number in np.unique(block[most > 0]):
            part = np.flatnonzero((block == number) & (most > 0))
            shared = hits[part] @ self.ngrams.rows
            shared.sort_indices()
            rows = np.repeat(part, np.diff(shared.indptr)).astype(np.int64)
            yield Pairs(NGRAM, start + rows, shared.indices.astype(np.int64), shared.data)

    def example(self, instance: Instance, test_row: int) -> str:
        """The first n-gram of the test set that this training row shares with that test row.

        Raises:
            ValueError: they share none.
        """
        grams = np.sort(self.ngrams.find([" ".join(_folded(instance))]).indices)
        rows = self.ngrams.rows[grams]
        places = np.flatnonzero(rows.indices == test_row)
        if not len(places):
            raise ValueError(f"{instance.id} shares no n-gram with test row {test_row}")
        return self.ngrams.text(grams[np.searchsorted(rows.indptr, places[0], "right") - 1])

    def most_shared(self, count: int) -> dict[str, int]:
        """The n-grams that most training rows have, and how many; a template shows here."""
        best = np.argsort(-self._met, kind="stable")[:count]
        return {self.ngrams.text(gram): int(self._met[gram]) for gram in best if self._met[gram]}

    @property
    def unchecked(self) -> int:
        """Test rows without any n-gram to look for: too short, or all of it template."""
        has = np.zeros(self.ngrams.rows.shape[1], bool)
        has[self.ngrams.rows.indices] = True
        return int((~has).sum())


def fold(text: str) -> str:
    """Text as it is compared: NFKC, case folding, NFKC again, runs of white space as one space."""
    if text.isascii():
        return " ".join(text.lower().split())
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.split())


def _folded(instance: Instance) -> tuple[str, str]:
    """Prompt, which is all turns but the last, and answer."""
    *prompt, answer = (fold(turn.content) for turn in instance.turns)
    return " ".join(part for part in prompt if part), answer
