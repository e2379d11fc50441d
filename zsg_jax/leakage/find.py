"""Tells how much of the test set stands in the training pool, by text and by embedding.

A row of an arrangement toward a test set may be near that set because it is in it.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.leakage.near import NEAR, near_pairs
from zsg_jax.leakage.text import EXACT, NGRAM, PROMPT, Overlap, Pairs
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.files import replacing
from zsg_jax.runtime.processes import is_first
from zsg_jax.similarity.search.options import Search
from zsg_jax.similarity.stored import Rows

FILE = "leakage.jsonl"
KINDS = (EXACT, PROMPT, NEAR, NGRAM)
BATCH = 1024  # training rows whose texts are compared at a time
MOST_SHARED = 5  # n-grams named in the summary


@dataclass(frozen=True)
class Leakage:
    """What training rows have of test rows. A row, and a pair, may be of several kinds.

    Attributes:
        train: (N,) uint8, bit k is set where a training row is of kind `KINDS[k]` with a test row.
        test: (T,) uint8, the same of test rows.
        pairs: pairs of each kind; all of them, whether written or not.
        written: pairs of each kind in the file.
        template: (N,) bool, training rows that have words of several test rows which were taken for
            a template; no leak by itself.
        facts: rules and settings, as `summary` gives them.
    """

    train: np.ndarray
    test: np.ndarray
    pairs: Mapping[str, int]
    written: Mapping[str, int]
    template: np.ndarray
    facts: Mapping[str, Any]

    def rows(self, kind: str) -> np.ndarray:
        """(N,) bool: the training rows of one kind."""
        return (self.train & _bit(kind)) > 0

    @property
    def rows_to_drop(self) -> np.ndarray:
        """(N,) bool: the training rows of any kind."""
        return self.train > 0

    @property
    def counts(self) -> dict[str, int]:
        """Plain numbers: rows in all, leaking and touched, and rows and pairs by kind."""
        counts = {
            "train_rows": len(self.train),
            "test_rows": len(self.test),
            "leaking_train_rows": int(self.rows_to_drop.sum()),
            "touched_test_rows": int((self.test > 0).sum()),
            "template_only_train_rows": int((self.template & ~self.rows_to_drop).sum()),
        }
        for kind in KINDS:
            counts[f"{kind}_train_rows"] = int(self.rows(kind).sum())
            counts[f"{kind}_test_rows"] = int(((self.test & _bit(kind)) > 0).sum())
            counts[f"{kind}_pairs"] = self.pairs[kind]
            counts[f"{kind}_pairs_written"] = self.written[kind]
        return counts

    def summary(self) -> dict[str, Any]:
        """JSON values: `counts`, the rule of each kind, and what was set."""
        return {"counts": self.counts, **self.facts}

    def sentence(self, way_out: str = "") -> str:
        """One line for the user; `way_out`, such as "pass --drop-leaks …", follows what leaks."""
        counts = self.counts
        kinds = (
            f"{counts['exact_train_rows']:,} exact, "
            f"{counts['prompt_train_rows']:,} same prompt, "
            f"{counts['near_train_rows']:,} near (cosine ≥ {self.facts['threshold']:g}), "
            f"{counts['ngram_train_rows']:,} sharing {self.facts['words']} words"
        )
        alike = counts["template_only_train_rows"]
        if alike:
            kinds += (
                f"; {alike:,} more share {self.facts['words']} words that several test rows have, "
                "taken for a template"
            )
        if not counts["leaking_train_rows"]:
            return f"leakage: none of {len(self.train):,} training rows ({kinds})"
        said = (
            f"leakage: {counts['leaking_train_rows']:,} of {len(self.train):,} training rows "
            f"({kinds}) touch {counts['touched_test_rows']:,} of {len(self.test):,} test rows"
        )
        return f"{said}; {way_out}" if way_out else said


def find_leaks(
    train: Iterable[Instance],
    test: Sequence[Instance],
    train_rows: Rows,
    test_rows: Rows,
    *,
    folder: Path,
    numbers: tuple[np.ndarray, np.ndarray] | None = None,
    threshold: float = 0.95,
    words: int = 13,
    max_test_rows: int = 10,
    task_share: float = 0.5,
    limit: int = 10_000,
    largest: np.ndarray | None = None,
    search: Search = Search(),
) -> Leakage:
    """Compares every training row with every test row and writes the pairs to `leakage.jsonl`.

    One JSON object a line: `kind`, `train_row`, `train_id`, `test_row`, `test_id`, then `cosine`
    of near pairs, `shared` (how many n-grams) and `text` (the first of them) of n-gram pairs. Rows
    count from 0. The first `limit` pairs of a kind by training row are written; the last line,
    `{"kind": "counts", …}`, holds `Leakage.counts`, which count all of them. The file is there
    whole or not at all, and with several processes the first one writes it.

    Args:
        train: N instances, read once, a batch at a time.
        test: T instances.
        train_rows: (N, D) floats, or what gives them by a slice or by ascending int64 rows.
        test_rows: (T, D) floats, by the same encoder. What a cosine means is the encoder's: a long
            definition that both sets have makes unlike rows near, and one that reads the first 256
            tokens takes rows that differ only later for the same.
        folder: where the file goes.
        numbers: (N,) and (T,), the numbers that rows go by in the file; None counts them from 0.
        threshold, largest: as `near_pairs` takes them.
        words, max_test_rows, task_share: as `Overlap` takes them.
        limit: pairs of a kind that are written, 0 for none.
        search: devices, block size and progress, which counts the training rows.

    Raises:
        UserError: settings out of range; embeddings that do not fit the instances or each other.
    """
    check(limit >= 0, f"limit={limit}: it must be at least 0")
    total = len(train_rows)
    check(len(test) == len(test_rows), f"{len(test)} test rows, but {len(test_rows)} embeddings")
    overlap = Overlap(test, words=words, max_test_rows=max_test_rows, task_share=task_share)
    near = _Near(
        near_pairs(
            train_rows,
            test_rows,
            threshold=threshold,
            largest=largest,
            search=search,
        )
    )
    flags, touched = np.zeros(total, np.uint8), np.zeros(len(test), np.uint8)
    template = np.zeros(total, bool)
    pairs, written = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    with _opened(Path(folder) / FILE) as file:
        start, rest = 0, iter(train)
        while batch := list(itertools.islice(rest, BATCH)):
            stop = start + len(batch)
            check(stop <= total, f"more training rows than their {total} embeddings")
            for found in itertools.chain(overlap.compare(batch, start), near.until(stop)):
                flags[found.train] |= _bit(found.kind)
                touched[found.test] |= _bit(found.kind)
                some = min(limit - written[found.kind], len(found.train))
                for place in range(some):
                    line = _line(found, place, batch[found.train[place] - start], test, overlap)
                    if numbers is not None:
                        for side, of in zip(("train_row", "test_row"), numbers, strict=True):
                            line[side] = int(of[line[side]])
                    _write(file, line)
                pairs[found.kind] += len(found.train)
                written[found.kind] += some
            template[start:stop] = overlap.of_template
            search.on_progress(len(batch), total)
            start = stop
        check(start == total, f"{start} training rows, but {total} embeddings")
        facts = {
            "threshold": threshold,
            "words": words,
            "max_test_rows": max_test_rows,
            "task_share": task_share,
            "limit": limit,
            "rules": {
                **overlap.rules,
                NEAR: f"cosine of the embeddings is {threshold:g} or more, in float32",
            },
            "ngrams_checked": overlap.ngrams.rows.shape[0],
            "ngrams_common": overlap.ngrams.common,
            "test_rows_without_ngrams": overlap.unchecked,
            "ngrams_most_shared": overlap.most_shared(MOST_SHARED),
        }
        leakage = Leakage(flags, touched, pairs, written, template, facts)
        _write(file, {"kind": "counts", **leakage.counts})
    return leakage


class _Near:
    """Near pairs handed out up to a training row, whatever the blocks they come in."""

    def __init__(self, blocks: Iterator[Pairs]):
        self.blocks = blocks
        self.rest: Pairs | None = None

    def until(self, stop: int) -> Iterator[Pairs]:
        """The pairs not handed out yet whose training row is below `stop`."""
        while True:
            self.rest = self.rest or next(self.blocks, None)
            if self.rest is None:
                return
            kind, *columns = self.rest
            cut = int(np.searchsorted(self.rest.train, stop))
            if cut:
                yield Pairs(kind, *(column[:cut] for column in columns))
            if cut < len(self.rest.train):
                self.rest = Pairs(kind, *(column[cut:] for column in columns))
                return
            self.rest = None


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
    found: Pairs, place: int, instance: Instance, test: Sequence[Instance], overlap: Overlap
) -> dict[str, Any]:
    row = int(found.test[place])
    line: dict[str, Any] = {
        "kind": found.kind,
        "train_row": int(found.train[place]),
        "train_id": instance.id,
        "test_row": row,
        "test_id": test[row].id,
    }
    if found.kind == NEAR:
        line["cosine"] = float(str(found.measure[place]))  # float32's own digits
    if found.kind == NGRAM:
        line["shared"] = int(found.measure[place])
        line["text"] = overlap.example(instance, row)
    return line


def _write(file: BinaryIO | None, line: dict[str, Any]) -> None:
    if file is not None:
        # Half a surrogate pair, as broken JSON has it, becomes the escape it was.
        file.write(f"{json.dumps(line, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace"))
