"""Tokens and loss masks of a data set's examples, in memory or on disk.

Workers import this, so that it needs no JAX.

A folder holds `manifest.json` and a folder for each shard: `tokens.npy` (uint16 where the
vocabulary fits, else int32), `mask.npy` (the loss mask, a bit a token, padded to bytes) and
`counts.npy` (n, 5) int32, as `TokenizedExamples.counts`. The files are mapped into memory, so that
their content is shared by all processes that read it and need not stay.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.files import load_npy, need_json

# As `runtime.shards` calls it.
MANIFEST = "manifest.json"


class TokenizedExamples(ABC):
    """Token sequences of unequal length, in memory (`Examples`) or on disk (`StoredExamples`).

    Attributes:
        counts: (N, 5) int32, of each example: its tokens, those that carry loss, those that the
            limits took (as `truncation.fit` counts them), those of these that carried loss, and the
            turns that the study's form took white space from the front of.
        refused: why the template does not fit, for the examples it does not fit; these hold no
            token.
    """

    counts: np.ndarray
    refused: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.counts)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n,) int32 and loss mask (n,) bool of one example."""

    @abstractmethod
    def select(self, indices: np.ndarray) -> "TokenizedExamples":
        """The given examples, in the given order."""

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 tokens of each; so the next, column by column of `counts`."""
        return self.counts[:, 0].astype(np.int64)

    @property
    def answer_tokens(self) -> np.ndarray:
        return self.counts[:, 1].astype(np.int64)

    @property
    def cut(self) -> np.ndarray:
        return self.counts[:, 2].astype(np.int64)

    @property
    def answer_cut(self) -> np.ndarray:
        return self.counts[:, 3].astype(np.int64)

    @property
    def stripped(self) -> np.ndarray:
        return self.counts[:, 4].astype(np.int64)

    def _refused_of(self, indices: np.ndarray) -> dict[int, str]:
        """`refused` as `select` numbers the examples."""
        chosen = enumerate(np.arange(len(self))[indices].tolist())
        return {new: self.refused[old] for new, old in chosen if old in self.refused}


class Examples(TokenizedExamples):
    """Token sequences held flat.

    Attributes:
        tokens: (sum of lengths,) int32.
        loss_mask: (sum of lengths,) bool, true on answer tokens and their eos.
    """

    def __init__(
        self,
        examples: Sequence[tuple[np.ndarray, np.ndarray]],
        limits: np.ndarray | tuple[int, int, int] = (0, 0, 0),
        refused: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        """Takes tokens and loss mask of each; `limits` (N, 3) are the last columns of `counts`."""
        tokens, masks = [tokens for tokens, _ in examples], [mask for _, mask in examples]
        self.tokens = np.concatenate([np.zeros(0, np.int32), *tokens])
        self.loss_mask = np.concatenate([np.zeros(0, bool), *masks])
        self.counts = np.zeros((len(examples), 5), np.int32)
        self.counts[:, 0], self.counts[:, 1] = [*map(len, tokens)], [*map(np.count_nonzero, masks)]
        self.counts[:, 2:] = limits
        self.refused = refused
        self._ends = np.cumsum(self.lengths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n,) int32 and loss mask (n,) bool of one example."""
        end = self._ends[index]
        part = slice(end - self.counts[index, 0], end)
        return self.tokens[part], self.loss_mask[part]

    def select(self, indices: np.ndarray) -> "Examples":
        """The given examples, in the given order."""
        chosen = [self[index] for index in np.arange(len(self))[indices]]
        return Examples(chosen, self.counts[indices, 2:], self._refused_of(indices))


class StoredExamples(TokenizedExamples):
    """The examples of a folder, left on disk; only the counts of each are in memory.

    It is pickled as its path, and the examples selected, whatever they hold.
    """

    def __init__(self, folder: Path, chosen: np.ndarray | None = None) -> None:
        """Opens what `store` wrote to `folder`; `chosen` (n,) int64 are its examples, None: all.

        Raises:
            UserError: if a file is missing or is not as the manifest tells.
        """
        self._folder, self._given = Path(folder).absolute(), chosen
        manifest = need_json(self._folder / MANIFEST, ("rows", "shards"))
        shards = manifest["shards"]
        self._shards = [self._folder / shard["folder"] for shard in shards]
        self._starts = np.asarray([0, *(shard["stop"] for shard in shards)])
        parts = [_load(shard / "counts.npy") for shard in self._shards]
        self.counts = np.concatenate([np.zeros((0, 5), np.int32), *parts])
        lengths = [part[:, 0].astype(np.int64) for part in parts]
        self._offsets = np.concatenate(
            [np.zeros(0, np.int64), *(np.cumsum(n) - n for n in lengths)]
        )
        self.refused = {
            shard["start"] + int(index): reason
            for shard in shards
            for index, reason in shard["refused"].items()
        }
        whole = len(self) == self._starts[-1] == manifest["rows"]
        check(whole, f"{folder}: does not hold all rows; start again to make those that are gone")
        self._chosen = np.arange(len(self))
        self._mapped: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if chosen is not None:
            self.refused, self.counts = self._refused_of(chosen), self.counts[chosen]
            self._offsets, self._chosen = self._offsets[chosen], chosen

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredExamples, (self._folder, self._given)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n,) int32 and loss mask (n,) bool of one example."""
        start, count = int(self._offsets[index]), int(self.counts[index, 0])
        if not count:
            return np.zeros(0, np.int32), np.zeros(0, bool)
        tokens, mask = self._files(
            int(np.searchsorted(self._starts, self._chosen[index], side="right")) - 1
        )
        bits = np.unpackbits(mask[start // 8 : -(-(start + count) // 8)])
        first = start % 8
        return tokens[start : start + count].astype(np.int32), bits[first : first + count] != 0

    def select(self, indices: np.ndarray) -> "StoredExamples":
        """The given examples, in the given order."""
        return StoredExamples(self._folder, self._chosen[indices])

    def _files(self, shard: int) -> tuple[np.ndarray, np.ndarray]:
        if shard not in self._mapped:
            folder = self._shards[shard]
            self._mapped[shard] = (_load(folder / "tokens.npy"), _load(folder / "mask.npy"))
        return self._mapped[shard]


def _load(path: Path) -> np.ndarray:
    try:
        return load_npy(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error}); start again to make it anew") from None
