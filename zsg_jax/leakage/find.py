"""Tells how much of the test set stands in the training pool, by text and by embedding.

An example of an arrangement toward a test set may be near that set because it is in it.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.leakage.near import NEAR, near_pairs
from zsg_jax.leakage.options import LeakageOptions
from zsg_jax.leakage.text import EXACT, NGRAM, PROMPT, LeakingPairs, TestTexts
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import replacing
from zsg_jax.runtime.processes import is_first
from zsg_jax.similarity.embeddings import Embeddings
from zsg_jax.similarity.search.options import Search

FILE = "leakage.jsonl"
KINDS = (EXACT, PROMPT, NEAR, NGRAM)
BATCH = 1024  # training examples whose texts are compared at a time
MOST_SHARED = 5  # n-grams named in the summary


@dataclass
class Leakage:
    """What training examples share with test examples; both, and a pair, may be of several kinds.

    Attributes:
        train: (N,) uint8, bit k set where a training example is of kind `KINDS[k]` with a test one.
        test: (T,) uint8, the same of test examples.
        pairs: pairs of each kind; all of them, whether written or not.
        written: pairs of each kind in the file.
        template: (N,) bool, training examples that share words which several test examples have,
            taken for a template; no leak by itself.
        facts: rules and settings, as `summary` gives them.
    """

    train: np.ndarray
    test: np.ndarray
    template: np.ndarray
    pairs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    written: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    facts: Mapping[str, Any] = field(default_factory=dict)

    def add(self, found: LeakingPairs, limit: int) -> int:
        """Counts pairs; gives how many of them, from the first, the `limit` of a kind leaves."""
        self.train[found.train] |= _bit(found.kind)
        self.test[found.test] |= _bit(found.kind)
        some = min(limit - self.written[found.kind], len(found.train))
        self.pairs[found.kind] += len(found.train)
        self.written[found.kind] += some
        return some

    def of_kind(self, kind: str) -> np.ndarray:
        """(N,) bool: the training examples of one kind."""
        return (self.train & _bit(kind)) > 0

    @property
    def leaking(self) -> np.ndarray:
        """(N,) bool: the training examples of any kind."""
        return self.train > 0

    @property
    def counts(self) -> dict[str, int]:
        """Plain numbers: examples in all, leaking and touched, and examples and pairs by kind."""
        counts = {
            "train_rows": len(self.train),
            "test_rows": len(self.test),
            "leaking_train_rows": int(self.leaking.sum()),
            "touched_test_rows": int((self.test > 0).sum()),
            "template_only_train_rows": int((self.template & ~self.leaking).sum()),
        }
        for kind in KINDS:
            counts[f"{kind}_train_rows"] = int(self.of_kind(kind).sum())
            counts[f"{kind}_test_rows"] = int(((self.test & _bit(kind)) > 0).sum())
            counts[f"{kind}_pairs"] = self.pairs[kind]
            counts[f"{kind}_pairs_written"] = self.written[kind]
        return counts

    @property
    def crowded(self) -> bool:
        """Whether the cosine that was asked for tells of the space rather than of copies.

        Most training examples are near to some test example, or most test examples to a training
        example and alike to none in another way.
        """
        train, test = self.of_kind(NEAR), self.test == _bit(NEAR)
        return any(2 * np.count_nonzero(one) > len(one) for one in (train, test))

    def summary(self) -> dict[str, Any]:
        """JSON values: `counts`, `crowded`, the rule of each kind, and what was set."""
        return {"counts": self.counts, "crowded": self.crowded, **self.facts}

    def sentence(self, way_out: str = "") -> str:
        """One line for the user; `way_out`, such as "pass --drop-leaks …", follows what leaks."""
        counts, words = self.counts, self.facts["words"]
        kinds = (
            f"{counts['exact_train_rows']:,} exact, "
            f"{counts['prompt_train_rows']:,} same prompt, "
            f"{counts['near_train_rows']:,} near (cosine ≥ {self.facts['threshold']:g}), "
            f"{counts['ngram_train_rows']:,} sharing {words} words"
        )
        if without := self.facts["test_rows_without_ngrams"]:
            kinds += f"; {without:,} of {len(self.test):,} test rows hold no such words to look for"
        if alike := counts["template_only_train_rows"]:
            kinds += (
                f"; {alike:,} more share {words} words that several test rows have, taken for a "
                "template"
            )
        if not counts["leaking_train_rows"]:
            return f"leakage: none of {len(self.train):,} training rows ({kinds})"
        line = (
            f"leakage: {counts['leaking_train_rows']:,} of {len(self.train):,} training rows "
            f"({kinds}) touch {counts['touched_test_rows']:,} of {len(self.test):,} test rows"
        )
        if self.crowded:
            line += (
                "; most rows of a side are that near in this space, copies or not: ask for a "
                "higher cosine"
            )
        return f"{line}; {way_out}" if way_out else line


def find_leaks(
    train: Iterable[Instance],
    test: Sequence[Instance],
    train_embeddings: Embeddings,
    test_embeddings: Embeddings,
    options: LeakageOptions,
    *,
    folder: Path,
    indices: tuple[np.ndarray, np.ndarray] | None = None,
    largest: np.ndarray | None = None,
    search: Search = Search(),
) -> Leakage:
    """Compares every training with every test example and writes the pairs to `leakage.jsonl`.

    One JSON object a line: `kind`, `train_row`, `train_id`, `test_row`, `test_id`, then `cosine`
    of near pairs, `shared` (how many n-grams) and `text` (the first of them) of n-gram pairs.
    Examples count from 0. The first `options.limit` pairs of a kind by training example are
    written; the last line, `{"kind": "counts", …}`, holds `Leakage.counts`, which count all of
    them. The file is there whole or not at all, and with several processes the first one writes it.

    Args:
        train: N examples, read once, a batch at a time.
        test: T examples.
        train_embeddings: (N, D) floats, or what gives them by a slice or ascending int64 indices.
        test_embeddings: (T, D) floats, by the same encoder; what a cosine means is the encoder's.
        options: what counts as a leak.
        folder: where the file goes.
        indices: (N,) and (T,), the numbers of the examples in the file; None counts them from 0.
        largest: as `near_pairs` takes it.
        search: devices, block size and progress, which counts the training examples.

    Raises:
        UserError: for embeddings that do not fit the examples or each other.
    """
    total = len(train_embeddings)
    check(
        len(test) == len(test_embeddings),
        f"{len(test)} test rows, but {len(test_embeddings)} embeddings",
    )
    texts = TestTexts(test, options)
    near = _Sorted(
        near_pairs(
            train_embeddings,
            test_embeddings,
            threshold=options.threshold,
            largest=largest,
            search=search,
        )
    )
    leakage = Leakage(
        np.zeros(total, np.uint8), np.zeros(len(test), np.uint8), np.zeros(total, bool)
    )
    with _opened(Path(folder) / FILE) as file:
        for start, batch in _batches(train, total):
            stop = start + len(batch)
            for found in itertools.chain(texts.compare(batch, start), near.until(stop)):
                for at in range(leakage.add(found, options.limit)):
                    example = batch[found.train[at] - start]
                    _write(file, _line(found, at, example, test, texts, indices))
            leakage.template[start:stop] = texts.of_template
            search.on_progress(len(batch), total)
        leakage.facts = _facts(options, texts)
        _write(file, {"kind": "counts", **leakage.counts})
    return leakage


def _batches(train: Iterable[Instance], total: int) -> Iterator[tuple[int, list[Instance]]]:
    """The examples, some at a time, and the index of the first; they must be `total`."""
    start, rest = 0, iter(train)
    while batch := list(itertools.islice(rest, BATCH)):
        check(start + len(batch) <= total, f"more training rows than their {total} embeddings")
        yield start, batch
        start += len(batch)
    check(start == total, f"{start} training rows, but {total} embeddings")


def _facts(options: LeakageOptions, texts: TestTexts) -> dict[str, Any]:
    near = f"cosine of the embeddings is {options.threshold:g} or more, in float32"
    return {
        **dataclasses.asdict(options),
        "rules": {**texts.rules, NEAR: near},
        "ngrams_checked": int(texts.ngrams.content.sum()),
        "ngrams_common": int(texts.ngrams.common.sum()),
        "test_rows_without_ngrams": texts.unchecked,
        "ngrams_most_shared": texts.most_shared(MOST_SHARED),
    }


class _Sorted:
    """Near pairs handed out up to a training example, whatever the blocks they come in."""

    def __init__(self, blocks: Iterator[LeakingPairs]) -> None:
        self._blocks = blocks
        self._rest: LeakingPairs | None = None

    def until(self, stop: int) -> Iterator[LeakingPairs]:
        """The pairs not handed out yet whose training example is below `stop`."""
        while found := self._rest or next(self._blocks, None):
            cut = int(np.searchsorted(found.train, stop))
            if cut:
                yield found.part(slice(cut))
            self._rest = found.part(slice(cut, None)) if cut < len(found.train) else None
            if self._rest:
                return


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    """The file to write to; None on processes that do not write."""
    if not is_first():
        yield None
        return
    with replacing(path) as partial, partial.open("wb") as file:
        yield file


def _bit(kind: str) -> np.uint8:
    return np.uint8(1 << KINDS.index(kind))


def _line(
    found: LeakingPairs,
    at: int,
    example: Instance,
    test: Sequence[Instance],
    texts: TestTexts,
    indices: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, Any]:
    train_index, test_index = int(found.train[at]), int(found.test[at])
    line: dict[str, Any] = {
        "kind": found.kind,
        "train_row": int(indices[0][train_index]) if indices else train_index,
        "train_id": example.id,
        "test_row": int(indices[1][test_index]) if indices else test_index,
        "test_id": test[test_index].id,
    }
    if found.kind == NEAR:
        line["cosine"] = float(str(found.measure[at]))  # float32's own digits
    if found.kind == NGRAM:
        line["shared"] = int(found.measure[at])
        line["text"] = texts.first_shared(example, test_index)
    return line


def _write(file: BinaryIO | None, line: dict[str, Any]) -> None:
    if file is not None:
        # Half a surrogate pair, as broken JSON has it, becomes the escape it was.
        file.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace"))
