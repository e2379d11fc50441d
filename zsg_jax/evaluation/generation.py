"""Text that a model writes: what an example becomes follows from the seed, its id and its prompt.

Batches hold prompts of like lengths, which are rounded up, so that few shapes are compiled. The
prompts of a batch fill a cache part by part, each part as long as its own longest; then one program
writes all texts until each has ended. Whatever else is in the batch, however large it is and
whatever mesh it lies on: the text is the same, but for the rounding of logits.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zsg_jax.evaluation.decoding import Sampling, choose, penalized
from zsg_jax.models import cache as caches
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.model import hidden_with, logits_of, unstacked
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import check
from zsg_jax.training.sharding import place_own, row_devices

# Lengths are rounded up to a power of two, or to three quarters of one; at least to so many tokens.
SHORTEST = 32
# Prompts that are read together, on one device: more would be as long as the longest of them.
PART = 8
ENDED = ("", "eos", "stop", "length", "nan")


class Prompt(NamedTuple):
    """What is gone on from.

    Attributes:
        tokens: (L,) int32, at least one.
        id: of the example.
        seed, sample: what is drawn for a token follows from these two, the id and the token's
            number, and from nothing else.
    """

    tokens: np.ndarray
    id: str
    seed: int = 0
    sample: int = 0


class Written(NamedTuple):
    """A text.

    Attributes:
        tokens: those generated, without what ended it.
        ended: why: "eos", "stop" or "length".
        end: the tokens of the stop that ended it.
    """

    tokens: list[int]
    ended: str
    end: Sequence[int] = ()


class _State(NamedTuple):
    """What the first token of each text follows from: B prompts, V words.

    Attributes:
        cache: of the prompts.
        logits: (B, V) float32, of the first token.
        there: (B, V) bool, the tokens that a penalty falls on; (B, 0) without one.
    """

    cache: caches.Cache
    logits: jax.Array
    there: jax.Array


class Generator:
    """Writes on: prompts of like lengths fill the cache part by part, then all texts grow together.

    Attributes:
        compiled: the lengths of prompts and, beside "texts", of caches that were compiled so far.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        model: ModelConfig,
        mesh: Mesh,
        sampling: Sampling,
        *,
        eos: Sequence[int],
        stops: Sequence[Sequence[int]] = (),
        batch_size: int = 64,
        cache_dtype: Any = None,
    ) -> None:
        """Takes what all texts share; nothing is compiled yet.

        Args:
            graphdef, model: as `models.model.abstract` has them, with adapters or without.
            eos: tokens that end a text, each by itself.
            stops: tokens that end it one after the other.
            batch_size: prompts at once, rounded up to a multiple of `sharding.row_devices`.
            cache_dtype: of keys and values that are kept; None: what the model computes in.

        Raises:
            UserError: a setting means nothing.
        """
        sampling.refuse_none()
        check(all(stops), "generation: a stop of no tokens; leave it out")
        self._graphdef, self._model, self._mesh, self._sampling = graphdef, model, mesh, sampling
        self._eos, self._stops = tuple(eos), tuple(map(tuple, stops))
        self._cache_dtype = cache_dtype
        unit = row_devices(mesh)
        # On several devices each has its own rows of the whole batch.
        self._part = min(batch_size, PART) if unit == 1 else -(-batch_size // unit) * unit
        self._size = -(-batch_size // self._part) * self._part
        self.compiled: list[tuple[str, int]] = []
        self._fill, self._write = cache(self._compile_prompts), cache(self._compile_texts)
        self._join = jax.jit(self._joined, static_argnums=1)

    @property
    def room(self) -> int:
        """Tokens at most of a prompt, so that the longest text has positions left."""
        return self._model.max_positions - self._sampling.max_new_tokens

    def __call__(self, params: Params, prompts: Sequence[Prompt]) -> list[Written]:
        """The texts of all prompts, in their order; as `write`."""
        texts: dict[int, Written] = {}
        for batch in self.batches(prompts):
            written = self.write(params, [prompts[i] for i in batch])
            texts |= zip(batch, written, strict=True)
        return [texts[i] for i in range(len(prompts))]

    def batches(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Which prompts are written on together: those of like lengths, the shortest first.

        Raises:
            UserError: a prompt and the longest text do not fit into the model's positions.
        """
        for prompt in prompts:
            check(
                0 < len(prompt.tokens) <= self.room,
                f"{prompt.id}: a prompt of {len(prompt.tokens)} tokens; the model's "
                f"{self._model.max_positions} positions leave room for 1 to {self.room} before "
                f"max_new_tokens={self._sampling.max_new_tokens}; cut it, or generate fewer",
            )
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens))
        # What is left over goes first: the shortest prompts, beside which empty rows cost least.
        ends = range(len(order) % self._size or self._size, len(order) + 1, self._size)
        return [order[max(0, end - self._size) : end] for end in ends]

    def write(self, params: Params, batch: Sequence[Prompt]) -> list[Written]:
        """The texts of one of `batches`.

        Args:
            params: all of them, as `Trainer.model_params` gives them.

        Raises:
            UserError: logits are not finite; the example is named.
        """
        starts = range(0, len(batch), self._part)
        parts = [batch[start : start + self._part] for start in starts]
        lengths = [max(map(self._rounded, part)) for part in parts]
        most = max(lengths) + self._sampling.max_new_tokens
        with jax.set_mesh(self._mesh):
            filled = [
                self._fill(length)(params, self._lay_prompts(part, length))
                for part, length in zip(parts, lengths, strict=True)
            ]
            state = self._join(filled, most)
            written, _ = self._write(most)(params, state, self._lay_draws(batch))
        tokens, ended = jax.device_get(written)
        for prompt, why in zip(batch, ended, strict=False):
            check(
                why != ENDED.index("nan"),
                f"{prompt.id}: its logits are not finite; look at the weights",
            )
        return [
            self._text(*one) for one in zip(tokens[: len(batch)], ended[: len(batch)], strict=True)
        ]

    def _rounded(self, prompt: Prompt) -> int:
        length = len(prompt.tokens)
        above = 1 << (length - 1).bit_length()
        return min(self.room, max(SHORTEST, 3 * above // 4 if length <= 3 * above // 4 else above))

    def _lay_prompts(self, part: Sequence[Prompt], length: int) -> dict[str, jax.Array]:
        """This process's rows of a part's prompts; those of no token fill it up."""
        tokens = np.zeros((self._part, length), np.int32)
        for row, prompt in enumerate(part):
            tokens[row, : len(prompt.tokens)] = prompt.tokens
        return place_own({"tokens": tokens, "lengths": _lengths(part, self._part)}, self._mesh)

    def _lay_draws(self, batch: Sequence[Prompt]) -> dict[str, jax.Array]:
        """This process's rows of what the tokens of a batch are drawn by."""
        words = np.zeros((self._size, 4), np.uint32)
        for row, prompt in enumerate(batch):
            digest = hashlib.sha256(prompt.id.encode()).digest()
            words[row] = prompt.seed, prompt.sample, *np.frombuffer(digest[:8], "<u4")
        return place_own({"lengths": _lengths(batch, self._size), "words": words}, self._mesh)

    def _text(self, tokens: np.ndarray, ended: Any) -> Written:
        kept = tokens[tokens >= 0].tolist()
        if ENDED[ended] == "eos":
            return Written(kept[:-1], "eos")
        if ENDED[ended] == "stop":
            longest = max(len(stop) for stop in self._stops if tuple(kept[-len(stop) :]) == stop)
            return Written(kept[:-longest], "stop", kept[-longest:])
        return Written(kept, ENDED[ended])

    def _compile_prompts(self, length: int) -> Callable[..., _State]:
        self.compiled.append(("prompts", length))
        return jax.jit(self._prompts)

    def _compile_texts(self, length: int) -> Callable[..., Any]:
        self.compiled.append(("texts", length))
        replicated = NamedSharding(self._mesh, PartitionSpec())
        # The state comes back as what it has become, so that it is written over in place.
        return jax.jit(self._texts, donate_argnums=1, out_shardings=(replicated, None))

    def _prompts(self, params: Params, batch: dict[str, jax.Array]) -> _State:
        """The state after the prompts of a part, its cache as long as they are."""
        tokens_BxL, lengths_B = batch["tokens"], batch["lengths"]
        B, L = tokens_BxL.shape
        place_L = jnp.arange(L)
        real_BxL = place_L < lengths_B[:, None]
        dtype = self._cache_dtype or nnx.merge(self._graphdef, params).compute.dtype
        x, head, kept = hidden_with(
            self._graphdef,
            params,
            tokens_BxL,
            jnp.broadcast_to(place_L, (B, L)),
            partial(caches.prompt, real_BxL.astype(jnp.int32)),
            caches.empty(self._model, B, L, dtype),
        )
        last = jnp.take_along_axis(x, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
        vocabulary, sampling = self._model.vocab_size, self._sampling
        there = jnp.zeros((B, vocabulary if sampling.repetition_penalty != 1 else 0), bool)
        if sampling.penalty_on == "all" and there.size:
            there = there.at[jnp.arange(B)[:, None], tokens_BxL].max(real_BxL)
        return _State(kept, logits_of(vocabulary, last, head), there)

    def _joined(self, parts: Sequence[_State], length: int) -> _State:
        """The parts of a batch as one, with room for the texts."""
        cache = caches.joined([part.cache for part in parts], self._size, length)
        rows = self._size - len(parts) * self._part
        logits, there = (
            jnp.pad(jnp.concatenate(own), ((0, rows), (0, 0)))
            for own in ([part.logits for part in parts], [part.there for part in parts])
        )
        return _State(cache, logits, there)

    def _texts(
        self, params: Params, state: _State, batch: dict[str, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], _State]:
        """Tokens, (B, max_new_tokens) int32, -1 behind the last, and why each ended, (B,) int32."""
        lengths_B, vocabulary = batch["lengths"], self._model.vocab_size
        B, most = len(lengths_B), self._sampling.max_new_tokens
        prompt = state.cache.k[0].shape[-1] - most
        keys_B = jax.vmap(_key)(batch["words"])
        # Split here, once: in the loop their weights would be copied for every token.
        layers = unstacked(self._graphdef, params)
        model = partial(hidden_with, self._graphdef, params, layers=layers)
        # As many places before the first token as the longest stop looks back.
        back = max(map(len, self._stops), default=1) - 1
        texts = jnp.full((B, back + most), -1, jnp.int32)

        def goes_on(carry: Any) -> jax.Array:
            number, _, ended, *_ = carry
            return (number < most) & (ended == 0).any()

        def step(carry: Any) -> Any:
            number, texts, ended, (cache, logits, there) = carry
            new = self._next(logits, there, keys_B, number)
            texts = texts.at[:, back + number].set(jnp.where(ended == 0, new, -1))
            why = self._why(texts, new, number, back)
            why = jnp.where(jnp.isfinite(logits).all(axis=-1), why, ENDED.index("nan"))
            ended = jnp.where(ended == 0, why, ended)
            if there.size:
                there = there.at[jnp.arange(B), new].set(True)
            mix = caches.token(lengths_B, prompt, number)
            at = (lengths_B + number)[:, None]
            x, head, kept = model(new[:, None], at, lambda _: mix, cache._replace(layer=0))
            logits = logits_of(vocabulary, x[:, 0], head)
            return number + 1, texts, ended, _State(kept._replace(layer=0), logits, there)

        # What only fills the batch up is waited for by none.
        ended = jnp.where(lengths_B == 0, ENDED.index("length"), 0)
        begun = jnp.int32(0), texts, ended, state
        _, texts, ended, state = jax.lax.while_loop(goes_on, step, begun)
        return (texts[:, back:], ended), state

    def _next(
        self, logits: jax.Array, there: jax.Array, keys_B: jax.Array, number: jax.Array
    ) -> jax.Array:
        if there.size:
            logits = penalized(logits, there, self._sampling.repetition_penalty)
        if self._sampling.min_new_tokens and self._eos:
            ends = jnp.zeros(logits.shape[-1], bool).at[jnp.array(self._eos)].set(True)
            early = number < self._sampling.min_new_tokens
            logits = jnp.where(early & ends, -jnp.inf, logits)
        drawn = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, number)
        return choose(logits, drawn, self._sampling)

    def _why(self, texts: jax.Array, new: jax.Array, number: jax.Array, back: int) -> jax.Array:
        """Which of `ENDED` a text that has gone on so far is at, (B,) int32."""
        why = jnp.where(number + 1 == self._sampling.max_new_tokens, ENDED.index("length"), 0)
        why = jnp.broadcast_to(why, new.shape)
        for stop in self._stops:
            start = back + number + 1 - len(stop)
            tail = jax.lax.dynamic_slice_in_dim(texts, start, len(stop), axis=1)
            met = (tail == jnp.array(stop)).all(axis=1) & (number >= self._sampling.min_new_tokens)
            why = jnp.where(met, ENDED.index("stop"), why)
        if self._eos:
            why = jnp.where(jnp.isin(new, jnp.array(self._eos)), ENDED.index("eos"), why)
        return why.astype(jnp.int32)


def _lengths(prompts: Sequence[Prompt], rows: int) -> np.ndarray:
    """The length of each prompt, 0 for rows beyond them, (rows,) int32."""
    lengths = np.zeros(rows, np.int32)
    lengths[: len(prompts)] = [len(one.tokens) for one in prompts]
    return lengths


def _key(words: jax.Array) -> jax.Array:
    """The key of an example: of the seed, the sample, and two words of its id's digest."""
    key = jax.random.key(words[0])
    for word in words[1:]:
        key = jax.random.fold_in(key, word)
    return key
