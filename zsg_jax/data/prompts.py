"""Instances to tokens and loss masks, in the study's conversation form (arXiv 2406.11721).

    bos "User: …\\nAssistant: answer" eos "\\nUser: …\\nAssistant: answer" eos …

A system turn, where there is one, comes first as "System: …" and a line break. Only answer tokens
and the eos that closes each answer carry loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.data.tokenizers import Tokenizer


class Exchange(NamedTuple):
    """One prompt with its answer; `text[answer_start:]` is the answer, closed by eos."""

    text: str
    answer_start: int


def exchanges(instance: Instance) -> list[Exchange]:
    """Renders the turns of an instance; every exchange ends where an eos stands."""
    turns = list(instance.turns)
    head = f"System: {turns.pop(0).content}\n" if turns[0].role == "system" else ""
    rendered = []
    for user, assistant in zip(turns[::2], turns[1::2], strict=True):
        prompt = f"{head}User: {user.content}\nAssistant: "
        rendered.append(Exchange(prompt + assistant.content, len(prompt)))
        head = "\n"
    return rendered


@dataclass(frozen=True)
class Examples:
    """Token rows of unequal length, held flat.

    Attributes:
        tokens: (sum of lengths,) int32.
        loss_mask: (sum of lengths,) bool, true on answer tokens and their eos.
        offsets: (N + 1,) int64; row i is [offsets[i], offsets[i + 1]).
        cut: (N,) int64, tokens that the length limit took from the row's tail.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    offsets: np.ndarray
    cut: np.ndarray

    def __len__(self) -> int:
        return len(self.cut)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n,) int32 and loss mask (n,) bool of one row."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        return self.tokens[part], self.loss_mask[part]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 tokens a row."""
        return np.diff(self.offsets)

    @property
    def answer_tokens(self) -> np.ndarray:
        """(N,) int64 tokens a row that carry loss."""
        sums = np.concatenate([[0], np.cumsum(self.loss_mask, dtype=np.int64)])
        return np.diff(sums[self.offsets])

    def select(self, rows: np.ndarray) -> "Examples":
        """The given rows, in the given order."""
        return _pack([self[row] for row in rows], self.cut[rows])


def encode(
    instances: Sequence[Instance],
    tokenizer: Tokenizer,
    max_length: int,
    on_progress: Callable[[int], object] = lambda rows: None,
) -> Examples:
    """Tokenizes instances and marks what is learned; rows over `max_length` are cut at the tail.

    A token that holds any character of an answer belongs to it, so a token that joins the space
    before the answer with its first letters carries loss.
    """
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    cut: list[int] = []
    for start in range(0, len(instances), 1024):
        chunk = instances[start : start + 1024]
        rendered = [exchanges(instance) for instance in chunk]
        flat = [exchange for one in rendered for exchange in one]
        encodings = iter(tokenizer.encode([exchange.text for exchange in flat]))
        bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        for one in rendered:
            tokens, mask = [np.asarray(bos, np.int32)], [np.zeros(len(bos), bool)]
            for exchange in one:
                ids, spans = next(encodings)
                tokens += [ids, np.asarray([tokenizer.eos_id], np.int32)]
                mask += [spans[:, 1] > exchange.answer_start, np.ones(1, bool)]
            row = np.concatenate(tokens)
            rows.append((row[:max_length], np.concatenate(mask)[:max_length]))
            cut.append(max(0, len(row) - max_length))
        on_progress(len(chunk))
    return _pack(rows, np.asarray(cut, np.int64))


def _pack(rows: Sequence[tuple[np.ndarray, np.ndarray]], cut: np.ndarray) -> Examples:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(tokens) for tokens, _ in rows], out=offsets[1:])
    return Examples(
        tokens=np.concatenate([tokens for tokens, _ in rows] or [np.zeros(0, np.int32)]),
        loss_mask=np.concatenate([mask for _, mask in rows] or [np.zeros(0, bool)]),
        offsets=offsets,
        cut=cut,
    )
