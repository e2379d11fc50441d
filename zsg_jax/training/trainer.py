"""A model on a mesh, ready to train any arrangement: shapes, shardings and compiled steps."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from zsg_jax.models import huggingface
from zsg_jax.models.compute import Compute
from zsg_jax.models.families import ModelConfig, family_of
from zsg_jax.models.parts import cast
from zsg_jax.training import optimizer, sharding
from zsg_jax.training.step import compile_init, compile_train_step, initial_state


class TrainerOptions(NamedTuple):
    """Plain settings of training; names and units as in `config.default_config`."""

    batch_size: int
    micro_batch_size: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    clip_norm: float
    weight_decay: float
    packing: bool = False


class Trainer:
    """Holds what all runs of a study share, so that each shape is compiled once.

    Attributes:
        hidden: (params, tokens, positions, segment_ids) -> what the head takes, and the head.
        model: its shape, with the padding that the mesh needs.
        mesh: where the state lies.
        abstract_state: shapes, dtypes and shardings of the state.
        parameters: how many numbers the model has, padding not counted.
    """

    def __init__(
        self,
        model: ModelConfig,
        options: TrainerOptions,
        mesh: Mesh,
        *,
        compute: Compute | None = None,
        param_dtype: str = "float32",
        init_from: str | Path | None = None,
    ) -> None:
        """Works out shapes and shardings; no array is made yet.

        Args:
            model: the architecture.
            options: batch sizes and optimizer.
            mesh: from `sharding.make_mesh`.
            compute: dtype and what the backward pass keeps; None: float32, everything.
            param_dtype: of the weights and the optimizer's moments, "float32" or "bfloat16".
            init_from: a Hugging Face folder with the weights to start from.

        Raises:
            UserError: if rows or arrays do not divide over the mesh.
        """
        sharding.rows_fit(mesh, options.batch_size, options.micro_batch_size)
        sharding.heads_fit(mesh, getattr(model, "num_kv_heads", model.num_heads))
        self.mesh = mesh
        family = family_of(model)
        self.parameters = family.count(family.abstract(model)[1])
        model = replace(model, vocab_padding=sharding.vocabulary_padding(model.vocab_size, mesh))
        self.model, self._options, self._init_from = model, options, init_from
        graphdef, _ = family.abstract(model, compute)
        self.hidden = partial(family.hidden, graphdef)
        # The state does not depend on the length of the learning rate's course.
        self._any_optimizer = self._optimizer(options.warmup_steps + 1)[0]
        self._init, self.abstract_state = compile_init(
            lambda key: cast(family.initialize(model, key), param_dtype),
            self._any_optimizer,
            mesh,
        )
        self._compiled: Callable[[int, int, int], jax.stages.Compiled] = cache(self._compile)

    def initial_state(self, seed: int) -> Any:
        """State before step 1: random weights by `seed`, or the weights of `init_from`."""
        if self._init_from is None:
            return self._init(jax.random.key(seed))
        placed = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        dtypes = jax.tree.map(lambda leaf: leaf.dtype, self.abstract_state["params"])
        params = huggingface.load(self._init_from, self.model, placed["params"])
        params = jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), params, dtypes)
        state = partial(initial_state, optimizer=self._any_optimizer)
        return jax.jit(state, out_shardings=placed)(params)

    def compiled_step(
        self, total: int, length: int, shapes: Iterable[int] | None = None
    ) -> Callable[[Any, Any], Any]:
        """The step of a run of `total` steps, compiled for every shape it will meet.

        Args:
            total: steps of the run, which set the learning rate's course.
            length: tokens a row.
            shapes: the numbers of rows of the batches to come; None: one an instance.

        Returns:
            (state, batch) -> (state, metrics); a batch of any other shape is refused.
        """
        wanted = sorted(set(shapes or [self._options.batch_size]))
        if len(wanted) == 1:
            return self._compiled(total, length, wanted[0])
        by_rows = {rows: self._compiled(total, length, rows) for rows in wanted}
        return lambda state, batch: by_rows[len(batch["tokens"])](state, batch)

    def abstract_batch(
        self, length: int, rows: int | None = None
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the global batch of one step, `rows` (default: one an instance) of `length`."""
        count = self._options.batch_size if rows is None else rows
        where = NamedSharding(self.mesh, sharding.BATCH)

        def shape(size: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(size, dtype, sharding=where)

        batch = {
            "tokens": shape((count, length), np.int32),
            "positions": shape((count, length), np.int32),
            "segment_ids": shape((count, length), np.int32),
            "loss_mask": shape((count, length), np.bool_),
            "index": shape((count,), np.int32),
        }
        if self._options.packing:
            segments = shape((count, self._options.batch_size), np.int32)
            batch |= {"index": segments, "place": segments}
        return batch

    def train_step_arguments(self, total: int) -> dict[str, Any]:
        """The fixed keyword arguments of `step.train_step` for a run of `total` steps."""
        tx, learning_rate = self._optimizer(total)
        return {
            "hidden": self.hidden,
            "vocab_size": self.model.vocab_size,
            "optimizer": tx,
            "learning_rate": learning_rate,
            "micro_batches": self._options.batch_size // self._options.micro_batch_size,
        }

    def _compile(self, total: int, length: int, rows: int) -> jax.stages.Compiled:
        return compile_train_step(
            self.abstract_state,
            self.abstract_batch(length, rows),
            self.mesh,
            **self.train_step_arguments(total),
        )

    def _optimizer(self, total: int) -> tuple[Any, Any]:
        o = self._options
        learning_rate = optimizer.schedule(o.schedule, o.learning_rate, total, o.warmup_steps)
        tx = optimizer.adamw(learning_rate, clip_norm=o.clip_norm, weight_decay=o.weight_decay)
        return tx, learning_rate
