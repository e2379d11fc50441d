"""Turns texts into embeddings with a sentence-transformers model, such as all-MiniLM-L6-v2.

An embedding that decides an order must not depend on its neighbours, whence `buckets`.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from zsg_jax.models import huggingface
from zsg_jax.runtime.progress import say
from zsg_jax.similarity.encoders.buckets import Buckets, Tokens
from zsg_jax.similarity.encoders.fingerprint import fingerprint
from zsg_jax.similarity.encoders.folder import Recipe, read_recipe
from zsg_jax.similarity.encoders.pooling import finish, load_heads, pool
from zsg_jax.similarity.encoders.tokenizer import read_tokenizer

# Part of every fingerprint: raise it when the same files would give other embeddings.
_VERSION = 2
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
        conversations: False.

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
        self.conversations = False
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
        self.fingerprint = fingerprint(
            params, _VERSION, settings, tokenizer.content, self.max_tokens
        )
        if not (folder / "modules.json").exists():
            say(
                f"{folder}: no modules.json; {recipe.pooling[0]} pooling of at most "
                f"{self.max_tokens} tokens"
            )

        hidden = huggingface.hidden_states(config)

        def embed(params: Any, tokens_BxL: jax.Array, lengths_B: jax.Array, _: Any) -> jax.Array:
            return _embed(hidden, recipe, params, tokens_BxL, lengths_B)

        self._buckets = Buckets(
            embed, params, dimension=self.dimension, max_tokens=self.max_tokens, mesh=mesh
        )

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
        return self._buckets.encode(self._tokens(texts), len(texts), on_progress)

    def _tokens(self, texts: Sequence[str]) -> Iterator[Tokens]:
        for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
            part = list(texts[start : start + _TOKENIZED_AT_ONCE])
            for encoding in self._tokenizer.encode_batch_fast(part):
                yield Tokens(encoding.ids)


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
