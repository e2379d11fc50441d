"""What trains and scores a cell: compiled once for a shape, whatever is drawn and however fast.

Instructions, shares and exponents are in the rows, learning rate and seed are arguments. Letters in
names give shapes: T steps, B rows a step, L tokens, M rows scored, C cells stacked.
"""

import threading
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from zsg_jax.models import model
from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.families import FAMILIES, ModelConfig
from zsg_jax.models.placement import Compute, Params
from zsg_jax.runtime.errors import UserError, did_you_mean
from zsg_jax.training.optimizer import adamw

# "small": a decoder that shows the transition on two cores; "gpt2": that of arXiv 2402.10891.
MODELS = ("small", "gpt2")
LOSSES = ("all", "answers")

# Rows scored at once.
SCORED = 256


def model_config(name: str, vocab_size: int, length: int) -> ModelConfig:
    """The model of a name in `MODELS`, for so many characters and so many tokens.

    Raises:
        UserError: there is none of this name.
    """
    if name == "small":
        return DecoderConfig("llama", vocab_size, 128, 344, 3, 4, 4, 32, length)
    if name == "gpt2":
        return FAMILIES["gpt2"].sized("diversity", vocab_size, length)
    raise UserError(
        f"model={name!r} is unknown; choose one of {', '.join(MODELS)}{did_you_mean(name, MODELS)}"
    )


@dataclass(frozen=True)
class Recipe:
    """How every cell is trained.

    Attributes:
        batch_size: B, rows a step.
        steps: T of the whole run.
        warmup_steps: in which the learning rate rises to its peak; it then falls linearly.
        final_share: of the peak, at the last step.
        b2, eps, weight_decay, clip_norm: AdamW's; gradients are clipped cell by cell.
        loss: the tokens that carry loss: "all" but the first, or "answers" with their end.
        dtype: of products, of `COMPUTED`; weights, moments, norms and the loss are float32.
    """

    batch_size: int = 64
    steps: int = 1200
    warmup_steps: int = 100
    final_share: float = 0.05
    b2: float = 0.98
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    loss: str = "all"
    dtype: str = "float32"

    def rates(self) -> np.ndarray:
        """The learning rate of every step as a share of the peak, (T,) float32."""
        step = np.arange(self.steps)
        rise = (step + 1) / max(self.warmup_steps, 1)
        fallen = (step + 1 - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        fall = 1 - (1 - self.final_share) * fallen
        return np.where(step < self.warmup_steps, rise, fall).astype(np.float32)


class State(NamedTuple):
    """What a cell has learned, and Adam's moments and count."""

    params: Params
    opt_state: Any


class Program:
    """The compiled functions of a shape: of one cell, or of C at once as one array.

    Of several, every argument and result has a leading axis C, laid over devices by `stacked`.

    Attributes:
        compiled: what has been compiled, by name and shapes.
    """

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        prompt: int,
        stacked: NamedSharding | None = None,
    ) -> None:
        """Takes the model, the recipe and P, the tokens of a prompt; compiles at the first call."""
        self.config, self.recipe = config, recipe
        self._graphdef, _ = model.abstract(config, Compute(jnp.dtype(recipe.dtype)))
        # A CPU computes several cells at once, each on one core: sooner than one on all cores,
        # and with the same sums whatever the machine.
        cpu = jax.default_backend() == "cpu"
        options = {"xla_cpu_multi_thread_eigen": False} if cpu else None

        def jitted(function: Any, donated: tuple[int, ...] = ()) -> Any:
            jit = partial(jax.jit, donate_argnums=donated, compiler_options=options)
            if stacked is None:
                return jit(function)
            return jit(jax.vmap(function), in_shardings=stacked, out_shardings=stacked)

        self._jitted = {
            "initialize": jitted(self._initialize),
            "train": jitted(partial(self._train, prompt), (0,)),
            "score": jitted(self._score),
        }
        self.compiled: dict[Any, Any] = {}
        self._lock = threading.Lock()

    def initialize(self, seed: Any) -> State:
        """The state of a seed, () uint32."""
        return self._call("initialize", seed)

    def train(self, state: State, tokens: Any, lengths: Any, rates: Any) -> tuple[State, Any]:
        """Takes T steps from `state`, whose memory is used again.

        Args:
            state: where they begin.
            tokens: (T, B, L) uint8.
            lengths: (T, B) int32, tokens of each row.
            rates: (T,) float32 learning rates.

        Returns:
            The state, and the loss of every step, (T,) float32: the mean over tokens that carry it.
        """
        return self._call("train", state, tokens, lengths, rates)

    def score(self, params: Params, tokens: Any) -> tuple[Any, Any]:
        """Of every token of rows (M, L) uint8 its loss in nats, and whether it was the likeliest.

        Both are (M, L), 0 and False for the first. All tokens of an answer being the likeliest
        given those before is an exact match of greedy decoding.
        """
        return self._call("score", params, tokens)

    def compile(self, name: str, *arguments: Any) -> Any:
        """The compiled function of a name; of threads that come at once, one compiles it.

        Arguments may be shapes alone.
        """
        shapes = tuple((np.shape(leaf), leaf.dtype) for leaf in jax.tree.leaves(arguments))
        with self._lock:
            if (name, shapes) not in self.compiled:
                self.compiled[name, shapes] = self._jitted[name].lower(*arguments).compile()
        return self.compiled[name, shapes]

    def abstract_state(self, seed: Any) -> Any:
        """The shapes of what `initialize` gives."""
        return jax.eval_shape(self._jitted["initialize"], seed)

    def _call(self, name: str, *arguments: Any) -> Any:
        return self.compile(name, *arguments)(*arguments)

    def _optimizer(self, rate: Any) -> optax.GradientTransformation:
        r = self.recipe
        return adamw(
            lambda _: rate,
            clip_norm=r.clip_norm,
            weight_decay=r.weight_decay,
            b2=r.b2,
            eps=r.eps,
        )

    def _initialize(self, seed: jax.Array) -> State:
        params = model.initialize(self.config, jax.random.key(seed))
        return State(params, self._optimizer(0.0).init(params))

    def _train(
        self,
        prompt: int,
        state: State,
        tokens_TxBxL: jax.Array,
        lengths_TxB: jax.Array,
        rates_T: jax.Array,
    ) -> tuple[State, jax.Array]:
        first = 1 if self.recipe.loss == "all" else prompt

        def mean_loss(params: Params, tokens_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
            place = jnp.arange(1, tokens_BxL.shape[1])
            mask = (place >= first) & (place < lengths_B[:, None])
            return (self._losses(params, tokens_BxL)[0] * mask).sum() / mask.sum()

        def step(state: State, row: Any) -> tuple[State, jax.Array]:
            tokens, lengths, rate = row
            loss, gradients = jax.value_and_grad(mean_loss)(state.params, tokens, lengths)
            updates, opt_state = self._optimizer(rate).update(
                gradients, state.opt_state, state.params
            )
            return State(optax.apply_updates(state.params, updates), opt_state), loss

        return jax.lax.scan(step, state, (tokens_TxBxL.astype(jnp.int32), lengths_TxB, rates_T))

    def _score(self, params: Params, tokens_MxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        count, length = tokens_MxL.shape
        batch = min(SCORED, count)
        batches = -(-count // batch)
        padded = jnp.pad(tokens_MxL, ((0, batches * batch - count), (0, 0)))

        def some(tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
            losses, right = self._losses(params, tokens.astype(jnp.int32))
            return jnp.pad(losses, ((0, 0), (1, 0))), jnp.pad(right, ((0, 0), (1, 0)))

        both = jax.lax.map(some, padded.reshape(batches, batch, length))
        losses, right = (one.reshape(-1, length)[:count] for one in both)
        return losses, right

    def _losses(self, params: Params, tokens_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of every next token its loss in nats, and whether it was the likeliest, (B, L-1) each."""
        given, labels = tokens_BxL[:, :-1], tokens_BxL[:, 1:]
        place = jnp.broadcast_to(jnp.arange(given.shape[1]), given.shape)
        # What follows the end of a row carries no loss, and nothing before it sees it.
        logits = model.apply(self._graphdef, params, given, place, jnp.ones_like(given))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses, logits.argmax(axis=-1) == labels
