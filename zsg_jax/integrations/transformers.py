"""Trainers of transformers and TRL: fed in an arrangement's order, and every batch compared to it.

ordered = arranged.select(dataset)
args = SFTConfig(..., train_sampling_strategy="sequential", remove_unused_columns=False)
check = OrderCallback(ordered["id"])
SFTTrainer(model, args, train_dataset=ordered, callbacks=[check]).train()
check.order_digest
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import TrainerCallback

from zsg_jax.runtime.errors import UserError, check
from zsg_jax.runtime.order_digest import OrderDigest
from zsg_jax.runtime.progress import say

# Where the trainer's state keeps the digest, with every checkpoint.
_KEPT = "order_digest"
# Who looks at a model: of a training that failed, until the next one of that model begins.
_LOOKING: WeakKeyDictionary[torch.nn.Module, Any] = WeakKeyDictionary()


class ArrangedSampler(torch.utils.data.Sampler[int]):
    """Gives the numbers of an order, epoch after epoch; for a dataset in its own order."""

    def __init__(self, order: Sequence[int] | np.ndarray) -> None:
        """Takes (n,) numbers of examples.

        Raises:
            UserError: they are others than whole numbers from 0.
        """
        try:
            given = np.array(order)
        except ValueError:  # rows of several lengths
            given = np.array([None])
        check(
            given.ndim == 1
            and (given.dtype.kind in "iu" or not given.size)
            and given.min(initial=0) >= 0,
            f"ArrangedSampler: {str(order)[:60]} is no order; give whole numbers from 0 in one row,"
            " as arranged.order",
        )
        self._order = given.astype(np.int64)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order.tolist())


class OrderCallback(TrainerCallback):
    """Compares the tokens of every batch that the model meets with the rows of the arrangement.

    Batches are seen where they enter the model, after samplers, collators and resumed training
    have done their work. That the dataset which the trainer was given is the arranged one is seen
    by the ids of its rows, which `remove_unused_columns=False` leaves there, or by their tokens.
    The digest is that of this package's own runs.

    Attributes:
        order_digest: running SHA-256 over the ids of the examples consumed, each followed by a line
            break; logged too, under the same name.
        examples: how many were consumed.
    """

    def __init__(self, ids: Iterable[Any], tokens: Sequence[Sequence[int]] | None = None) -> None:
        """Takes the rows of the training dataset, in the order of the arrangement.

        Args:
            ids: of each row.
            tokens: of each row, where they are not the trainer's work, as `ordered["input_ids"]`.
        """
        self._ids, self._tokens = [str(one) for one in ids], tokens
        check(
            tokens is None or len(tokens) == len(self._ids),
            f"OrderCallback: {len(self._ids):,} ids, but {len(tokens or ()):,} rows of tokens",
        )
        self._begin()

    def _begin(self) -> None:
        self._digests = _Digests(self._ids)
        self.order_digest, self.examples = self._digests.upto(0), 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the rows as the trainer has prepared them, and looks at what enters the model.

        Raises:
            UserError: they are others than those of the arrangement, or in another order.
        """
        self._begin()
        check(
            args.n_gpu < 2,
            f"OrderCallback: a process splits every batch over {args.n_gpu} GPUs, so none is seen "
            "whole; start a process for each, as torchrun and accelerate launch do, or show it one "
            "alone: CUDA_VISIBLE_DEVICES=0",
        )
        rows = kwargs["train_dataloader"].dataset
        check(
            hasattr(rows, "__len__") and len(rows) == len(self._ids),
            f"OrderCallback: {len(self._ids):,} ids, but the trainer kept "
            f"{len(rows) if hasattr(rows, '__len__') else 'a stream of'} rows; rows that it drops "
            "or packs move all later ones: give packing=False and, as longer rows are cut and "
            "those without an answer dropped, max_length=None; see docs/trainers.md",
        )
        check(
            state.global_step == 0 or not args.ignore_data_skip,
            "OrderCallback: ignore_data_skip=True would begin the epoch again, with rows that the "
            "checkpoint has met; leave it out",
        )
        check(
            self._tokens is not None or not len(rows) or "input_ids" in rows[0],
            "OrderCallback: the trainer's rows have no input_ids that a batch could be compared "
            "with; it looks at trainers of whole texts, as SFTTrainer, not of preferences, as "
            "DPOTrainer: leave it out there",
        )
        self._check_ids(rows)
        batches, model = len(kwargs["train_dataloader"]), kwargs["model"]
        size = args.per_device_train_batch_size
        if args.auto_find_batch_size and state.train_batch_size:
            size = state.train_batch_size  # smaller, where that did not fit the memory
        self._course = _Course(rows, batches, size, args, state.global_step, self._tokens)
        self._course.check_ends_whole(state.max_steps)
        self._digests = _Digests(self._ids[: self._course.an_epoch])
        self._check_before(state)
        self._count(state)
        _look_no_longer(model)
        _LOOKING[model] = model.register_forward_pre_hook(self._met, with_kwargs=True)

    def _check_ids(self, rows: Any) -> None:
        """Compares the ids of the trainer's rows, where it has left them there."""
        if "id" in getattr(rows, "column_names", ()):
            ids = rows["id"]
        elif all(isinstance(rows[i], dict) and "id" in rows[i] for i in range(len(rows))):
            ids = [rows[i]["id"] for i in range(len(rows))]
        else:
            if self._tokens is None:
                say(
                    "OrderCallback: the trainer has taken the ids from its rows, so that these are "
                    "in the order of the arrangement is taken on trust; to have it seen, give "
                    "remove_unused_columns=False, or their tokens"
                )
            return
        for number, (there, here) in enumerate(zip(ids, self._ids, strict=True)):
            check(
                str(there) == here,
                f"OrderCallback: row {number} of the trainer's dataset is {there!r}, that of the "
                f"arrangement {here!r}; train on arranged.select(dataset)",
            )

    def _check_before(self, state: Any) -> None:
        """Compares what a checkpoint says that it has consumed with what this order has for it."""
        if state.global_step == 0:
            return
        digest = state.stateful_callbacks.get(_KEPT)
        if digest is None:
            say(
                f"OrderCallback: the checkpoint of step {state.global_step} does not say which "
                "examples it has consumed, so that they are the first of these is taken on trust"
            )
            return
        examples = self._course.examples_before(self._course.batch)
        check(
            self._digests.upto(examples) == digest,
            f"OrderCallback: up to step {state.global_step} the checkpoint has consumed other "
            f"examples than the first {examples:,} of these; go on with the rows, the batch size, "
            "the accumulation and the number of processes that it was made with",
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Brings the digest up to the step.

        Raises:
            UserError: other batches have entered the model than the step is made of.
        """
        seen, due = self._course.batch, self._course.batches_before(state.global_step)
        if seen != due:
            _look_no_longer(kwargs["model"])
            raise UserError(
                f"OrderCallback: up to step {state.global_step} the model itself has met {seen:,} "
                f"batches, not {due:,}; have the loss call it in training mode, as "
                "model(**inputs), and not a part of it, as model.model(…)"
            )
        self._count(state)

    def _count(self, state: Any) -> None:
        self.examples = self._course.examples_before(self._course.batch)
        self.order_digest = self._digests.upto(self.examples)
        state.stateful_callbacks[_KEPT] = self.order_digest

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Adds the digest to what is logged."""
        for record in (kwargs.get("logs"), *state.log_history[-1:]):
            if record is not None:
                record["order_digest"] = self.order_digest

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Looks no longer."""
        _look_no_longer(kwargs["model"])

    def _met(self, model: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        if not model.training:
            return
        tokens = named.get("input_ids", positional[0] if positional else None)
        if tokens is None:
            raise UserError("OrderCallback: the model is given no input_ids to compare")
        mask = named.get("attention_mask")
        mask = torch.ones_like(tokens) if mask is None or mask.ndim != 2 else mask
        expected = self._course.next()
        met = [row[real.bool()].tolist() for row, real in zip(tokens, mask, strict=True)]
        if met != [self._course.tokens(index) for index in expected]:
            _look_no_longer(model)
            first = f"begin with example {self._ids[expected[0]]!r}" if expected else "be none"
            raise UserError(
                f"OrderCallback: batch {self._course.batch} was to {first}, but the model met "
                'other tokens; set train_sampling_strategy="sequential", packing=False: see '
                "docs/trainers.md"
            )


def _look_no_longer(model: torch.nn.Module) -> None:
    if model in _LOOKING:
        _LOOKING.pop(model).remove()


class _Course:
    """Which rows this process's batches hold.

    Attributes:
        batch: how many batches this process has been given so far, in all epochs.
    """

    def __init__(
        self, rows: Any, batches: int, size: int, args: Any, step: int, tokens: Any
    ) -> None:
        """Takes what the trainer has prepared.

        Args:
            rows: as the trainer has them.
            batches, size: batches of this process an epoch, and rows of each.
            args: the trainer's.
            step: steps taken before.
            tokens: of each row; None: what the trainer has made of it.
        """
        self._rows, self._batches, self._size = rows, batches, size
        self._tokens = tokens
        self._place, self._places = args.process_index, args.world_size
        self._accumulated = args.gradient_accumulation_steps
        self._drop_last = args.dataloader_drop_last
        self.batch = self.batches_before(step)

    def batches_before(self, step: int) -> int:
        """Batches of this process in so many steps; the last step of an epoch may have fewer."""
        epoch, inside = divmod(step, -(-self._batches // self._accumulated))
        return epoch * self._batches + inside * self._accumulated

    def check_ends_whole(self, steps: int) -> None:
        """Refuses a last batch that processes would fill with rows from the start."""
        rows, together = len(self._rows), self._size * self._places
        check(
            self._places == 1
            or self._drop_last
            or rows % together == 0
            or steps * self._accumulated < self._batches,
            f"OrderCallback: {rows:,} rows are no multiple of {together}, the batches of "
            f"{self._places} processes, which would fill the last ones with rows from the start; "
            "give dataloader_drop_last=True, which leaves out the last rows, or max_steps that end "
            "before",
        )

    def next(self) -> range:
        """The rows of the next batch."""
        own = self.batch % self._batches * self._places + self._place
        self.batch += 1
        start = own * self._size
        return range(start, min(start + self._size, len(self._rows)))

    def tokens(self, index: int) -> list[int]:
        """A row's tokens, as given or as the trainer has prepared them."""
        given = self._rows[index]["input_ids"] if self._tokens is None else self._tokens[index]
        return [int(one) for one in given]

    def examples_before(self, batch: int) -> int:
        """Examples that all processes have met in so many batches of each."""
        epoch, inside = divmod(batch, self._batches)
        met = inside * self._places * self._size
        return epoch * self.an_epoch + min(met, self.an_epoch)

    @property
    def an_epoch(self) -> int:
        """Examples that are met in an epoch, the first ones."""
        return min(self._batches * self._places * self._size, len(self._rows))


class _Digests:
    """The digest of the first n examples, epoch after epoch; n only grows."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids, self._digest = ids, OrderDigest(ids)

    def upto(self, examples: int) -> str:
        new = range(self._digest.instances, examples)
        return self._digest.feed(number % len(self._ids) for number in new)
