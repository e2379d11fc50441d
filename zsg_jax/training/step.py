"""The train step: one jitted function from state and batch to state and metrics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zsg_jax.models.head import Head
from zsg_jax.models.lora import join
from zsg_jax.models.loss import answer_losses, token_losses
from zsg_jax.models.model import cast
from zsg_jax.training import sharding

# hidden(params, tokens, positions, segment_ids) -> (B, L, D), and the head that makes logits
Hidden = Callable[[Any, jax.Array, jax.Array, jax.Array], tuple[jax.Array, Head]]


# What of a state no step changes: the weights that adapters adapt.
FROZEN = "frozen"


def initial_state(params: Any, optimizer: optax.GradientTransformation) -> dict[str, Any]:
    """State before the first step: params, opt_state and step, a plain tree of arrays."""
    return {"params": params, "opt_state": optimizer.init(params), "step": jnp.zeros((), jnp.int32)}


def train_step(
    state: dict[str, Any],
    batch: dict[str, jax.Array],
    *,
    hidden: Hidden,
    vocab_size: int,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    micro_batches: int,
) -> tuple[dict[str, Any], dict[str, jax.Array]]:
    """Takes one optimizer step on one batch.

    The loss is the sum of the step's token losses over the number of its answer tokens, however
    the sequences are divided into micro-batches: every micro-batch is weighed by the step's count.

    Args:
        state: as `Trainer.initial_state` makes it. Where it holds frozen parameters, those under
            params are adapters of them; where it holds a dropout_key, dropout follows from that,
            the step and the micro-batch.
        batch: as `data.pipeline.lay` or `data.packing.lay_packed` makes it, B sequences.
        hidden, vocab_size: the model, and the words that it can predict.
        micro_batches: A, divides B; gradients of A parts are summed before the update. Of a packed
            batch, the parts after the last that holds a token are not computed.

    Returns:
        The new state, and metrics: loss (mean nats a token), grad_norm (before clipping),
        learning_rate, tokens (answer tokens), fill (the share of the sequences' places that hold a
        token), and the batch's own index (and slot), which say what this step consumed.
    """
    answer_tokens = batch["loss_mask"][:, 1:].sum(dtype=jnp.int32)
    scale = 1.0 / jnp.maximum(answer_tokens, 1).astype(jnp.float32)

    def loss_of(params: Any, part: dict[str, jax.Array], number: jax.Array | int) -> jax.Array:
        everything = _whole(state, params, number)
        x, head = hidden(everything, part["tokens"], part["positions"], part["segment_ids"])
        losses = token_losses(x, head, part["tokens"], vocab_size)
        sums, _ = answer_losses(losses, part["loss_mask"])
        return sums.sum() * scale

    value_and_grad = jax.value_and_grad(loss_of)
    computed: int | jax.Array = 1
    if micro_batches == 1:
        loss, grads = value_and_grad(state["params"], batch, 0)
    else:
        loss, grads, computed = _in_parts(value_and_grad, state["params"], batch, micro_batches)
    # In float32 whatever parameters and moments are kept in, to which they are rounded at the end.
    grads = cast(grads, jnp.float32)
    updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
    opt_state = jax.tree.map(lambda new, old: new.astype(old.dtype), opt_state, state["opt_state"])
    params = optax.apply_updates(state["params"], updates)
    places = computed * (batch["tokens"].size // micro_batches)
    metrics: dict[str, jax.Array] = {
        "loss": loss,
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": jnp.asarray(learning_rate(state["step"]), jnp.float32),
        "tokens": answer_tokens,
        "fill": (batch["segment_ids"] != 0).sum(dtype=jnp.int32) / places,
        **{name: batch[name] for name in ("index", "slot") if name in batch},
    }
    changed = {"params": params, "opt_state": opt_state, "step": state["step"] + 1}
    return state | changed, metrics


def _whole(state: dict[str, Any], params: Any, number: jax.Array | int) -> Any:
    """All parameters, where adapters alone are trained, with the dropout of this micro-batch."""
    if FROZEN not in state:
        return params
    if "dropout_key" not in state:
        return join(params, state[FROZEN])
    key = jax.random.wrap_key_data(state["dropout_key"])
    key = jax.random.fold_in(jax.random.fold_in(key, state["step"]), number)
    return join(params, state[FROZEN], key)


def _in_parts(
    value_and_grad: Callable[..., Any], params: Any, batch: dict[str, jax.Array], count: int
) -> tuple[jax.Array, Any, int | jax.Array]:
    """Sums of `count` parts of a batch in float32, and how many of them were computed."""
    # Strided parts: each takes as many sequences from every device, so none changes its device.
    parts = {name: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}

    def add(number: jax.Array, carry: Any) -> Any:
        part = jax.tree.map(lambda x: x[number], parts)
        return jax.tree.map(jnp.add, carry, value_and_grad(params, part, number))

    zero = jnp.zeros(()), jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
    computed: int | jax.Array = count
    if "slot" in batch:
        # How many parts there are is a number, no shape: one compile serves every step.
        computed = (parts["segment_ids"] != 0).any((1, 2)).sum(dtype=jnp.int32)
    loss, grads = jax.lax.fori_loop(0, computed, add, zero)
    return loss, grads, computed


def compile_init(
    make: Callable[[jax.Array], Any], mesh: Mesh
) -> tuple[Callable[[jax.Array], Any], Any]:
    """Compiles `key -> state` so that every array is born in its shard.

    Returns:
        The function, and the state's shapes with their shardings.
    """
    shapes = jax.eval_shape(make, jax.random.key(0))
    placed = sharding.shardings(shapes, mesh)
    abstract = jax.tree.map(
        lambda shape, where: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where),
        shapes,
        placed,
    )
    return jax.jit(make, out_shardings=placed), abstract


def compile_train_step(
    abstract_state: Any, abstract_batch: dict[str, jax.ShapeDtypeStruct], mesh: Mesh, **fixed: Any
) -> jax.stages.Compiled:
    """Compiles `train_step` once, ahead of time: a batch of any other shape is refused.

    Args:
        abstract_state: from `compile_init`.
        abstract_batch: shapes of the global batch.
        fixed: the keyword arguments of `train_step`.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_state)
    batch_sharding = NamedSharding(mesh, sharding.BATCH)

    def step(state: Any, batch: Any) -> Any:
        return train_step(state, batch, **fixed)

    jitted = jax.jit(
        step,
        in_shardings=(state_shardings, batch_sharding),
        out_shardings=(state_shardings, replicated),
        donate_argnums=0,
    )
    with jax.set_mesh(mesh):
        return jitted.lower(abstract_state, abstract_batch).compile()
