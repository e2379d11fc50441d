"""Turns texts into embeddings with a sentence-transformers model, such as all-MiniLM-L6-v2.

An embedding that decides an order must not depend on its neighbours. XLA sums in another order
for another array shape, so a text's shape depends on nothing but its number of tokens: it goes
to the narrowest bucket that holds it, and every batch of a bucket has that bucket's one shape.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from zsg_jax.models import huggingface
from zsg_jax.runtime.progress import say
from zsg_jax.similarity.encoders.folder import Recipe, read_recipe
from zsg_jax.similarity.encoders.pooling import finish, load_heads, pool
from zsg_jax.similarity.encoders.tokenizer import read_tokenizer

# Part of every fingerprint: raise it when the same files would give other embeddings.
_VERSION = 2
_SHORT = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024)
_LONG = (1280, 1536, 2048, 2560, 3072, 4096, 6144, 8192, 12288, 16384, 24576)
# An accelerator computes what is padded sooner than it compiles another width: beside seven other
# processes on an H200 a width took a minute.
_FEW = tuple(32 << i for i in range(10))
# Tokens in one batch of one device: what fits a CPU's cache, or keeps an accelerator busy.
_BATCH_TOKENS = {"cpu": 1024}
_BATCH_TOKENS_ELSEWHERE = 32768
_TOKENIZED_AT_ONCE = 1024


class SentenceEncoder:
    """A transformer, pooling and what follows it, read from a folder; nothing is downloaded.

    Attributes:
        name: the folder's name, or another that was given.
        dimension: D, the length of an embedding.
        fingerprint: SHA-256 over everything that decides an embedding: weights, config,
            tokenizer, token limit, pooling and this module's version; not the machine: another
            kind of device or number of cores may change the last digits (4e-8 seen).
        max_tokens: longer texts are cut to this many, special tokens counted.
        prompts: the folder's, by name.
        default_prompt: the name of the one that is put where none is asked for; None for none.

    Raises:
        UserError: a file is missing or damaged, or asks for what is not computed here.
    """

    def __init__(self, folder: str | Path, *, mesh: Mesh | None = None, called: str = "") -> None:
        """Reads the model.

        Args:
            folder: in the layout of sentence-transformers, or a bare BERT in Hugging Face's.
            mesh: its devices share every batch; without one, the first device does it all. An
                embedding is the same bit for bit on either if the devices are of one kind.
            called: its name; "" for the folder's.
        """
        folder = Path(folder)
        self.name = called or folder.resolve().name
        recipe = read_recipe(folder)
        self.prompts, self.default_prompt = recipe.prompts, recipe.default_prompt
        config = huggingface.read_encoder_config(recipe.transformer)
        tokenizer = read_tokenizer(
            recipe.transformer,
            config.family,
            vocab_size=config.vocab_size,
            max_positions=config.max_positions,
            max_tokens=recipe.max_tokens,
            lower=recipe.lower,
        )
        self._tokenizer, self.max_tokens = tokenizer.tokenizer, tokenizer.max_tokens
        heads, self.dimension = load_heads(recipe, config.hidden_size)
        params = {"model": huggingface.load_encoder(recipe.transformer, config), "heads": heads}
        settings = [config, recipe.pooling, recipe.heads, recipe.truncate]
        self.fingerprint = _fingerprint(params, settings, tokenizer.content, self.max_tokens)
        if not (folder / "modules.json").exists():
            say(
                f"{folder}: no modules.json; {recipe.pooling[0]} pooling of at most "
                f"{self.max_tokens} tokens"
            )

        self._mesh = mesh or Mesh(np.array(jax.local_devices()[:1]), ("data",))
        widths = _SHORT + _LONG if self._platform == "cpu" else _FEW
        self._widths = [w for w in widths if w < self.max_tokens] + [self.max_tokens]
        everywhere, rows = NamedSharding(self._mesh, P()), P(self._mesh.axis_names)
        self._rows = NamedSharding(self._mesh, rows)
        self._params = jax.tree.map(lambda x: _place(np.asarray(x), everywhere), params)
        hidden = huggingface.hidden_states(config)

        def embed(params: Any, tokens_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
            return _embed(hidden, recipe, params, tokens_BxL, lengths_B)

        # shard_map and not a sharded jit: each device then runs the program of one device alone.
        mapped = jax.shard_map(
            embed, mesh=self._mesh, in_specs=(P(), rows, rows), out_specs=rows, check_vma=False
        )
        self._embed = jax.jit(mapped, out_shardings=everywhere)

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """The embeddings of `texts`, (n, D) float32 of length one, in the order given.

        On one machine each is the same bit for bit whatever other texts are given with it, and in
        whatever order. On several hosts every process gives the same texts and gets all.

        Args:
            texts: any strings; the empty one has an embedding too.
            on_progress: called with the number of texts that have just been finished.
        """
        embeddings = np.empty((len(texts), self.dimension), np.float32)
        running: deque[tuple[list[int], jax.Array]] = deque()

        def finish() -> None:
            rows, result = running.popleft()
            embeddings[rows] = np.asarray(result)[: len(rows)]
            if on_progress is not None:
                on_progress(len(rows))

        for rows, tokens, lengths in self._batches(texts):
            # One batch runs while the next is tokenized and packed.
            if len(running) > 1:
                finish()
            batch = (_place(tokens, self._rows), _place(lengths, self._rows))
            running.append((rows, self._embed(self._params, *batch)))
        while running:
            finish()
        return embeddings

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
        """Row numbers, tokens (B, L) int32 and lengths (B,) int32 of one full batch after another;
        what is left over at the end comes in batches padded to the same shape."""
        waiting: dict[int, list[tuple[int, list[int]]]] = {width: [] for width in self._widths}
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            part = list(texts[start : start + _TOKENIZED_AT_ONCE])
            for row, encoding in enumerate(self._tokenizer.encode_batch_fast(part), start):
                ids = encoding.ids
                width = next(w for w in self._widths if len(ids) <= w)
                waiting[width].append((row, ids))
                if len(waiting[width]) == self._batch_rows(width):
                    yield self._pack(width, waiting[width])
                    waiting[width] = []
        for width, left in waiting.items():
            if left:
                yield self._pack(width, left)

    def _batch_rows(self, width: int) -> int:
        """Rows in a batch of this width, over all devices."""
        tokens = _BATCH_TOKENS.get(self._platform, _BATCH_TOKENS_ELSEWHERE)
        return max(1, tokens // width) * self._mesh.size

    @property
    def _platform(self) -> str:
        return self._mesh.devices.flat[0].platform

    def _pack(
        self, width: int, filled: list[tuple[int, list[int]]]
    ) -> tuple[list[int], np.ndarray, np.ndarray]:
        tokens = np.zeros((self._batch_rows(width), width), np.int32)
        lengths = np.zeros(len(tokens), np.int32)
        for i, (_, ids) in enumerate(filled):
            tokens[i, : len(ids)], lengths[i] = ids, len(ids)
        return [row for row, _ in filled], tokens, lengths


def _place(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """`array`, which every process holds alike, on the devices of `sharding`."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _embed(
    hidden: Callable[..., jax.Array],
    recipe: Recipe,
    params: Any,
    tokens_BxL: jax.Array,
    lengths_B: jax.Array,
) -> jax.Array:
    """Embeddings of the first `lengths_B` tokens of each row, (B, D)."""
    with jax.default_matmul_precision("highest"):
        mask_BxL = jnp.arange(tokens_BxL.shape[1]) < lengths_B[:, None]
        hidden_BxLxD = hidden(params["model"], tokens_BxL, mask_BxL)
        pooled_BxD = pool(recipe.pooling, hidden_BxLxD, lengths_B)
        return finish(recipe.heads, params["heads"], recipe.truncate, pooled_BxD)


def _fingerprint(params: Any, *settings: Any) -> str:
    """SHA-256 over the weights as numbers, whatever files they lay in, and all the settings."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}\n".encode())
        digest.update(np.ascontiguousarray(leaf, "<f4").tobytes())
    digest.update(json.dumps([_VERSION, *settings], sort_keys=True, default=repr).encode())
    return digest.hexdigest()
