"""A model on a mesh, ready to train any arrangement: shapes, shardings and compiled steps."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from zsg_jax.models import lora as adapters
from zsg_jax.models import model as models
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.lora import LoRA
from zsg_jax.models.placement import Compute, Params
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.progress import working
from zsg_jax.training import initial_weights, optimizer, sharding
from zsg_jax.training.step import FROZEN, compile_init, compile_train_step, initial_state


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
        graphdef: the model's definition, as `models.model.abstract` has it, without dropout.
        model: its shape, with the padding that the mesh needs.
        mesh: where the state lies.
        abstract_state: shapes, dtypes and shardings of the state.
        init_from: the folder or checkpoint to start from, or what gives the parameters of a seed,
            on their shards; None: random weights.
        weights_digest: what `initial_weights.digest` of init_from must be whenever its weights are
            read, so that all runs start from the same; "": any.
        parameters: how many numbers the model has, padding and adapters not counted.
        trained: how many numbers training changes.
    """

    def __init__(
        self,
        model: ModelConfig,
        options: TrainerOptions,
        mesh: Mesh,
        *,
        compute: Compute | None = None,
        param_dtype: str = "float32",
        lora: LoRA | None = None,
        init_from: str | Path | None = None,
    ) -> None:
        """Works out shapes and shardings; no array is made yet.

        Args:
            model: the architecture.
            options: batch sizes and optimizer.
            mesh: from `sharding.make_mesh`.
            compute: dtype and what the backward pass keeps; None: float32, everything.
            param_dtype: of what is trained and of its moments, "float32" or "bfloat16".
            lora: adapters that are trained instead of the weights; None: the weights are.
            init_from: a Hugging Face folder, or one checkpoint's, with the weights to start from.

        Raises:
            UserError: if sequences or arrays do not divide over the mesh.
        """
        sharding.rows_fit(mesh, options.batch_size, options.micro_batch_size)
        sharding.heads_fit(mesh, model.num_kv_heads)
        self.mesh = mesh
        self.parameters = models.count(models.abstract(model)[1])
        self.model = replace(
            model, vocab_padding=sharding.vocabulary_padding(model.vocab_size, mesh)
        )
        self._options, self._lora = options, lora
        self.init_from: str | Path | Callable[[int], Params] | None = init_from
        self.weights_digest = ""
        self._param_dtype, compute = jnp.dtype(param_dtype), compute or Compute()
        self._frozen_dtype = compute.dtype
        self.graphdef, shapes = models.abstract(self.model, compute, lora)
        self.hidden = self._train_hidden = partial(models.hidden, self.graphdef)
        if lora is not None:
            graphdef, _ = models.abstract(self.model, compute, lora, training=True)
            self._train_hidden = partial(models.hidden, graphdef)
        self.trained = models.count(adapters.split(shapes)[0]) if lora else self.parameters
        # The state does not depend on the length of the learning rate's course.
        self._any_optimizer = self._optimizer(options.warmup_steps + 1)[0]
        self._init, self.abstract_state = compile_init(self._random_state, mesh)
        # As files hold what is frozen, before any of it is packed.
        self._abstract_base = lora and compile_init(self._random_base, mesh)[1]
        self._compiled: Callable[[int, int, int], jax.stages.Compiled] = cache(self._compile)

    def initial_state(self, seed: int) -> Any:
        """State before step 1: the weights of `init_from` or random ones; adapters by `seed`."""
        key = jax.random.key(seed)
        if self.init_from is None:
            return self._init(key)
        placed = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        same = self._lora is None or self._lora.base == "same"
        donated = 0 if same else ()  # nothing that is packed lies where it lay
        begin = jax.jit(self._state_from, out_shardings=placed, donate_argnums=donated)
        return begin(self._load_weights(seed), key)

    def frozen(self, seed: int) -> dict[str, Any]:
        """What a state holds that no step changes, and so no checkpoint keeps; {} without LoRA."""
        if self._lora is None:
            return {}
        if self.init_from is None:
            return {FROZEN: self._init(jax.random.key(seed))[FROZEN]}
        if self._lora.base == "same":
            return {FROZEN: self._load_weights(seed)}
        placed = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state[FROZEN])
        pack = partial(adapters.packed, lora=self._lora)
        return {FROZEN: jax.jit(pack, out_shardings=placed)(self._load_weights(seed))}

    def model_params(self, state: Any) -> Params:
        """All parameters of a state, as `hidden` takes them."""
        if self._lora is None:
            return state["params"]
        return adapters.join(state["params"], state[FROZEN])

    def first_params(self, seed: int = 0) -> Params:
        """All parameters before step 1, without the optimizer's state, as `hidden` takes them."""
        if self._lora is None and self.init_from is not None:
            return self._load_weights(seed)
        return self.model_params(self.initial_state(seed))

    def _load_weights(self, seed: int) -> Params:
        """The weights of `init_from`, on their shards."""
        assert self.init_from is not None
        if callable(self.init_from):
            return self.init_from(seed)
        if self.weights_digest:
            plain = replace(self.model, vocab_padding=0)
            check(
                initial_weights.digest(self.init_from, plain) == self.weights_digest,
                f"{self.init_from}: holds other weights than when the study began with them; put "
                "those back, and the same command goes on",
            )
        abstract = self._abstract_base or self.abstract_state["params"]
        return initial_weights.load(self.init_from, self.model, abstract)

    def _random_state(self, key: jax.Array) -> dict[str, Any]:
        """The state before step 1 of random weights."""
        if self._lora is not None:
            return self._state_from(self._random_base(key), key)
        params = models.initialize(self.model, key)
        return self._state_from(models.cast(params, self._param_dtype), key)

    def _random_base(self, key: jax.Array) -> Params:
        """What is frozen of random weights."""
        params = models.initialize(self.model, key, self._lora)
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf.astype(
                adapters.frozen_dtype(sharding.path_name(path), self._frozen_dtype)
            ),
            adapters.split(params)[1],
        )

    def _state_from(self, params: Params, key: jax.Array) -> dict[str, Any]:
        """The state before step 1 of these parameters; adapters, if any, are drawn by `key`."""
        if self._lora is None:
            return initial_state(params, self._any_optimizer)
        fresh = models.initialize(self.model, key, self._lora)
        trained = models.cast(adapters.split(fresh)[0], self._param_dtype)
        state = initial_state(trained, self._any_optimizer)
        state[FROZEN] = adapters.packed(params, self._lora)
        if self._lora.dropout:
            state["dropout_key"] = jax.random.key_data(jax.random.fold_in(key, 0))
        return state

    def compiled_step(
        self, total: int, length: int, shapes: Iterable[int] | None = None
    ) -> Callable[[Any, Any], Any]:
        """The step of a run of `total` steps, compiled for every shape it will meet.

        Args:
            total: steps of the run, which set the learning rate's course.
            length: tokens a sequence.
            shapes: the numbers of sequences of the batches to come; None: one an instance.

        Returns:
            (state, batch) -> (state, metrics); a batch of any other shape is refused.
        """
        wanted = sorted(set(shapes or [self._options.batch_size]))
        if len(wanted) == 1:
            return self._compiled(total, length, wanted[0])
        by_size = {size: self._compiled(total, length, size) for size in wanted}
        return lambda state, batch: by_size[len(batch["tokens"])](state, batch)

    def abstract_batch(
        self, length: int, sequences: int | None = None
    ) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a step's global batch, `sequences` (default: one an instance) of `length`."""
        count = self._options.batch_size if sequences is None else sequences
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
            batch |= {"index": segments, "slot": segments}
        return batch

    def train_step_arguments(self, total: int) -> dict[str, Any]:
        """The fixed keyword arguments of `step.train_step` for a run of `total` steps."""
        tx, learning_rate = self._optimizer(total)
        return {
            "hidden": self._train_hidden,
            "vocab_size": self.model.vocab_size,
            "optimizer": tx,
            "learning_rate": learning_rate,
            "micro_batches": self._options.batch_size // self._options.micro_batch_size,
        }

    def _compile(self, total: int, length: int, sequences: int) -> jax.stages.Compiled:
        with working(f"compiling the step of {sequences:,} sequences of {length:,} tokens"):
            return compile_train_step(
                self.abstract_state,
                self.abstract_batch(length, sequences),
                self.mesh,
                **self.train_step_arguments(total),
            )

    def _optimizer(self, total: int) -> tuple[Any, Any]:
        o = self._options
        learning_rate = optimizer.schedule(o.schedule, o.learning_rate, total, o.warmup_steps)
        tx = optimizer.adamw(learning_rate, clip_norm=o.clip_norm, weight_decay=o.weight_decay)
        return tx, learning_rate
