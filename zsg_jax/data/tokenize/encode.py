"""Instances to tokens and loss masks: a form renders them, a limit cuts them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.data.tokenize import chat
from zsg_jax.data.tokenize import user_assistant as study
from zsg_jax.data.tokenize.jinja import ChatTemplate
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.data.tokenize.truncation import Fitted, TokenizedExample, Unfit, fit
from zsg_jax.runtime.errors import UserError

ANSWERS = ("all", "last")


class Form(NamedTuple):
    """How instances are put into tokens.

    Attributes:
        template: as `templates.jinja.load` gives it; None for the study's own form.
        answers: which of a conversation's answers carry loss, "all" or "last".
        truncation: one of `templates.truncation.TRUNCATIONS`.
        max_answer: tokens at most of an answer with what closes it; None: as many as there are.
    """

    template: ChatTemplate | None = None
    answers: str = "all"
    truncation: str = "tail"
    max_answer: int | None = None

    @property
    def fingerprint(self) -> str:
        """The template's digest; "study" for the study's form."""
        return self.template.fingerprint if self.template else "study"


STUDY_FORM = Form()


class TokenizedExamples(Protocol):
    """Token rows of unequal length, in memory (`Examples`) or on disk (`tokens.StoredExamples`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n,) int32 and loss mask (n,) bool of one row."""
        ...

    def select(self, rows: np.ndarray) -> "TokenizedExamples":
        """The given rows, in the given order."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 tokens a row."""
        ...

    @property
    def answer_tokens(self) -> np.ndarray:
        """(N,) int64 tokens a row that carry loss."""
        ...

    @property
    def cut(self) -> np.ndarray:
        """(N,) int64, as `Examples` has it, and so the next two."""
        ...

    @property
    def answer_cut(self) -> np.ndarray: ...

    @property
    def refused(self) -> Mapping[int, str]: ...


@dataclass(frozen=True)
class Examples:
    """Token rows of unequal length, held flat.

    Attributes:
        tokens: (sum of lengths,) int32.
        loss_mask: (sum of lengths,) bool, true on answer tokens and their eos.
        offsets: (N + 1,) int64; row i is [offsets[i], offsets[i + 1]).
        cut: (N,) int64, tokens that the limits took from the row, as `truncation.fit` counts them.
        answer_cut: (N,) int64, those of them that carried loss; may be left out.
        refused: why the template does not fit, for the rows it does not fit; these hold no token.
    """

    tokens: np.ndarray
    loss_mask: np.ndarray
    offsets: np.ndarray
    cut: np.ndarray
    answer_cut: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    refused: Mapping[int, str] = field(default_factory=dict)

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
        chosen = _pack([self[row] for row in rows])
        numbers = enumerate(np.arange(len(self))[rows].tolist())
        return replace(
            chosen,
            cut=self.cut[rows],
            answer_cut=self.answer_cut[rows] if len(self.answer_cut) else self.answer_cut,
            refused={new: self.refused[old] for new, old in numbers if old in self.refused},
        )


def encode(
    instances: Sequence[Instance],
    tokenizer: Tokenizer,
    max_length: int,
    on_progress: Callable[[int], object] = lambda rows: None,
    form: Form = STUDY_FORM,
) -> Examples:
    """Tokenizes instances, marks what is learned and cuts rows to `max_length` tokens.

    Rows that the template does not fit hold no token and are listed in `Examples.refused`.
    """
    rows: list[Fitted] = []
    refused: dict[int, str] = {}
    for start in range(0, len(instances), 1024):
        chunk = instances[start : start + 1024]
        for instance, row in zip(chunk, _token_rows(chunk, tokenizer, form), strict=True):
            if isinstance(row, Unfit):
                refused[len(rows)] = str(row)
                row = TokenizedExample(*[np.zeros(0, np.int32)] * 3)
            rows.append(fit(row, instance.turns, max_length, form.truncation, form.max_answer))
        on_progress(len(chunk))
    return replace(
        _pack([(row.ids, row.loss_mask) for row in rows]),
        cut=np.asarray([row.prompt_cut + row.answer_cut for row in rows], np.int64),
        answer_cut=np.asarray([row.answer_cut for row in rows], np.int64),
        refused=refused,
    )


def prompt_tokens(
    instance: Instance,
    tokenizer: Tokenizer,
    form: Form = STUDY_FORM,
    max_length: int | None = None,
) -> np.ndarray:
    """What a model is given to answer the last prompt: (n,) int32, the row before that answer.

    With `max_length` these are the first tokens of the row that `encode` makes with it, otherwise
    of the whole row. In the study's form a tokenizer may join the space after "Assistant:" with
    the answer's first word; it is then the answer's.

    Raises:
        UserError: if the template does not fit.
    """
    (row,) = _token_rows([instance], tokenizer, form)
    if isinstance(row, Unfit):
        raise UserError(f"row {instance.id!r}: the chat template does not fit: {row}")
    limit = len(row.ids) if max_length is None else max_length
    fitted = fit(row, instance.turns, limit, form.truncation, form.max_answer)
    return fitted.ids[: fitted.prompt]


def _token_rows(
    instances: Sequence[Instance], tokenizer: Tokenizer, form: Form
) -> Sequence[TokenizedExample | Unfit]:
    if form.template is None:
        return study.tokenized(instances, tokenizer, form.answers)
    return chat.tokenized(instances, tokenizer, form.template, form.answers)


def _pack(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> Examples:
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(tokens) for tokens, _ in rows], out=offsets[1:])
    return Examples(
        tokens=np.concatenate([tokens for tokens, _ in rows] or [np.zeros(0, np.int32)]),
        loss_mask=np.concatenate([mask for _, mask in rows] or [np.zeros(0, bool)]),
        offsets=offsets,
        cut=np.zeros(len(rows), np.int64),
    )
