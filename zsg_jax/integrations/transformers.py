"""Trainers of transformers and TRL: fed in an arrangement's order, and every batch compared to it.

ordered = arranged.select(dataset)
args = SFTConfig(..., train_sampling_strategy="sequential")
check = OrderCallback(ordered["id"])
SFTTrainer(model, args, train_dataset=ordered, callbacks=[check]).train()
check.order_digest
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from zsg_jax.runtime.errors import UserError, check


class ArrangedSampler(torch.utils.data.Sampler[int]):
    """Gives the numbers of an order, epoch after epoch; for a dataset in its own order."""

    def __init__(self, order: Sequence[int] | np.ndarray) -> None:
        """Takes (n,) numbers of examples."""
        self._order = np.asarray(order, np.int64)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order.tolist())


class OrderCallback(TrainerCallback):
    """Compares the tokens of every batch that the model meets with the rows of the arrangement.

    Batches are seen where they enter the model, after samplers, collators and resumed training
    have done their work. The digest is that of this package's own runs.

    Attributes:
        order_digest: running SHA-256 over the ids of the examples consumed, each followed by a line
            break; logged too, under the same name.
        examples: how many were consumed.
    """

    def __init__(self, ids: Sequence[Any]) -> None:
        """Takes the id of each row of the training dataset, in the order of the arrangement."""
        self._ids = [str(one) for one in ids]
        self._digests = _Digests(self._ids)
        self.order_digest, self.examples = self._digests.upto(0), 0
        self._handle: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the rows as the trainer has prepared them, and looks at what enters the model."""
        rows = kwargs["train_dataloader"].dataset
        check(
            hasattr(rows, "__len__") and len(rows) == len(self._ids),
            f"OrderCallback: {len(self._ids):,} ids, but the trainer kept "
            f"{len(rows) if hasattr(rows, '__len__') else 'a stream of'} rows; rows that it drops "
            "or packs move all later ones: see docs/trainers.md",
        )
        batches = len(kwargs["train_dataloader"])
        self._course = _Course(rows, batches, args, state.global_step)
        self._handle = kwargs["model"].register_forward_pre_hook(self._met, with_kwargs=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Brings the digest up to the step."""
        self.examples = self._course.examples
        self.order_digest = self._digests.upto(self.examples)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds the digest to what is logged."""
        for record in (kwargs.get("logs"), *state.log_history[-1:]):
            if record is not None:
                record["order_digest"] = self.order_digest

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks no longer."""
        self._handle.remove()

    def _met(self, model: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not model.training:
            return
        tokens = named.get("input_ids", positional[0] if positional else None)
        if tokens is None:
            raise UserError("OrderCallback: the model is given no input_ids to compare")
        mask = named.get("attention_mask")
        mask = torch.ones_like(tokens) if mask is None or mask.ndim != 2 else mask
        expected = self._course.next()
        for row, real, index in zip(tokens, mask, expected, strict=False):
            met = row[real.bool()].tolist()
            if met != self._course.tokens(index) or len(tokens) != len(expected):
                raise UserError(
                    f"OrderCallback: batch {self._course.batch} was to begin with example "
                    f"{self._ids[expected[0]]!r}, but the model met other tokens; set "
                    'train_sampling_strategy="sequential", packing=False: see docs/trainers.md'
                )


class _Course:
    """Which rows this process's batches hold.

    Attributes:
        batch: how many batches this process has been given so far, in all epochs.
    """

    def __init__(self, rows: Any, batches: int, args: Any, step: int) -> None:
        """Takes the prepared rows, this process's batches an epoch, and the steps taken before."""
        self._rows, self._batches, self._size = rows, batches, args.per_device_train_batch_size
        self._place, self._places = args.process_index, args.world_size
        steps = -(-batches // args.gradient_accumulation_steps)
        self.batch = step // steps * batches + step % steps * args.gradient_accumulation_steps
        self._drop_last = args.dataloader_drop_last

    def next(self) -> range:
        """The rows of the next batch."""
        own = self.batch % self._batches * self._places + self._place
        self.batch += 1
        start = own * self._size
        return range(start, min(start + self._size, len(self._rows)))

    def tokens(self, index: int) -> list[int]:
        """A row's tokens as the trainer has prepared them."""
        return list(self._rows[index]["input_ids"])

    @property
    def examples(self) -> int:
        """Examples that all processes have met so far."""
        epoch, inside = divmod(self.batch, self._batches)
        whole = self._batches * self._places * self._size
        met = inside * self._places * self._size
        rows = whole if self._drop_last else len(self._rows)
        return epoch * rows + min(met, rows)


class _Digests:
    """The digest of the first n examples, epoch after epoch; n only grows."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids, self._hash, self._done = ids, hashlib.sha256(), 0

    def upto(self, examples: int) -> str:
        while self._done < examples:
            self._hash.update(self._ids[self._done % len(self._ids)].encode() + b"\n")
            self._done += 1
        return self._hash.hexdigest()
