"""The loss on the unseen tasks: a mean for every test instance, then the mean over instances."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from zsg_jax.data.batches.packing import Batch, lay_packed, pack, spread
from zsg_jax.data.batches.steps import lay, sequence_length
from zsg_jax.data.tokenize.examples import TokenizedExamples
from zsg_jax.evaluation.evaluator import not_finite
from zsg_jax.models.loss import answer_losses, segment_losses, token_losses
from zsg_jax.models.placement import Params
from zsg_jax.runtime.progress import bar, working
from zsg_jax.training.sharding import compile_by_rows, place_batch, row_devices
from zsg_jax.training.step import Hidden


class LossEvaluator:
    """Measures the test loss of parameters; compiled once, the test instances on the devices."""

    def __init__(
        self,
        examples: TokenizedExamples,
        ids: Sequence[str],
        tasks: Sequence[str],
        *,
        hidden: Hidden,
        vocab_size: int,
        abstract_params: Any,
        mesh: Mesh,
        batch_size: int,
        max_length: int,
        dropped: int = 0,
        packing: bool = False,
    ) -> None:
        """Lays the test instances into batches and compiles the evaluation step.

        Args:
            examples: the tokens of each, with at least one answer token.
            ids, tasks: the id and the task of each.
            hidden, vocab_size: as `train_step` takes them.
            abstract_params: shapes and shardings of the parameters to come.
            batch_size: sequences a batch, rounded up to a multiple of `sharding.row_devices`.
            max_length: the most tokens a sequence has.
            dropped: instances left out before, a field of every record.
            packing: lay as many instances into one sequence as fit, instead of one.
        """
        self._ids, self._tasks, self._dropped = ids, np.asarray(tasks), dropped
        length = sequence_length(int(examples.lengths.max()), max_length)
        lay_all = _packed if packing else _unpacked
        laid = lay_all(examples, batch_size, row_devices(mesh), length)
        self._batches = [place_batch(batch, mesh) for batch in laid]
        self._step = _compile(hidden, vocab_size, abstract_params, self._batches[0], mesh)

    def __call__(self, params: Params, step: int, folder: Path | None = None) -> dict[str, Any]:
        """Evaluates `params` after `step`; keeps nothing in `folder`, since `losses` holds all.

        Returns:
            loss (mean over instances of each one's mean nats per answer token), loss_by_task,
            instances, dropped, and losses: every instance's own, in their order.

        Raises:
            UserError: a loss is not finite.
        """
        losses = self._losses(params)
        bad = [self._ids[int(i)] for i in np.flatnonzero(~np.isfinite(losses))]
        if bad:
            raise not_finite(
                f"the test loss is {losses.mean()} at step {step}, by {len(bad)} of {len(losses)} "
                f"test rows, such as {', '.join(bad[:4])}",
                step,
            )
        tasks = dict.fromkeys(self._tasks.tolist())
        return {
            "loss": float(losses.mean()),
            "loss_by_task": {task: float(losses[self._tasks == task].mean()) for task in tasks},
            "instances": len(losses),
            "dropped": self._dropped,
            "losses": losses.tolist(),
        }

    def _losses(self, params: Params) -> np.ndarray:
        """(instances,) float64, the mean nats per answer token of each."""
        losses = np.full(len(self._ids), np.nan)
        under_way: list[Any] = []
        with bar(len(losses), "evaluation") as progress:

            def fetch() -> None:
                sums, counts, index = jax.device_get(under_way.pop(0))
                real = index >= 0
                losses[index[real]] = sums[real].astype(np.float64) / counts[real]
                progress.update(int(real.sum()))

            # Two batches under way keep the devices busy; more would only take memory.
            for batch in self._batches:
                under_way.append(self._step(params, batch))
                if len(under_way) == 2:
                    fetch()
            while under_way:
                fetch()
        return losses


def _unpacked(
    examples: TokenizedExamples, batch_size: int, unit: int, length: int
) -> Iterator[Batch]:
    """This process's part of every batch, one instance a sequence."""
    size = -(-min(batch_size, len(examples)) // unit) * unit
    local = size // jax.process_count()
    first = jax.process_index() * local
    for start in range(0, len(examples), size):
        index = np.arange(start, start + size)
        index[index >= len(examples)] = -1
        yield lay(examples, index[first : first + local], local, length)


def _packed(
    examples: TokenizedExamples, batch_size: int, unit: int, length: int
) -> Iterator[Batch]:
    """This process's part of every batch, full sequences; all batches of one shape."""
    sequences = pack(examples.lengths, length)
    most = -(-batch_size // unit) * unit
    count = -(-len(sequences) // most)
    # As many sequences in each batch, so that the last is no emptier than the others.
    size = -(-len(sequences) // (count * unit)) * unit
    local = size // jax.process_count()
    first = jax.process_index() * local
    index, segments = np.arange(len(examples)), max(map(len, sequences))
    for start in range(0, len(sequences), size):
        part = spread(sequences[start : start + size], size, size)[first : first + local]
        yield lay_packed(examples, index, part, length=length, segments=segments)


def _compile(
    hidden: Hidden, vocab_size: int, abstract_params: Any, batch: Any, mesh: Mesh
) -> jax.stages.Compiled:
    def step(params: Any, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, head = hidden(params, batch["tokens"], batch["positions"], batch["segment_ids"])
        losses = token_losses(x, head, batch["tokens"], vocab_size)
        if "slot" not in batch:
            return (*answer_losses(losses, batch["loss_mask"]), batch["index"])
        segments = batch["index"].shape[1]
        sums = segment_losses(losses, batch["loss_mask"], batch["segment_ids"], segments)
        return (*sums, batch["index"])

    with working("compiling the evaluation"):
        return compile_by_rows(step, abstract_params, batch, mesh)
