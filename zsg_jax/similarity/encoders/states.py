"""Turns conversations into embeddings by the hidden states of a language model.

The tokens of a conversation are those that the model would be trained on; what their states after a
layer come to, averaged, is its embedding: RDS+ of arXiv 2503.01807 ("Large-Scale Data Selection for
Instruction Tuning"), whose position-weighted mean is that of SGPT (arXiv 2202.08904, section 3.1).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from zsg_jax.data.tokenize.encode import Form
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.huggingface import hidden_states
from zsg_jax.models.model import first_layers
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import check
from zsg_jax.similarity.encoders.address import POOLINGS, STATES, States
from zsg_jax.similarity.encoders.buckets import Buckets
from zsg_jax.similarity.encoders.conversations import Conversations, needed
from zsg_jax.similarity.encoders.fingerprint import fingerprint
from zsg_jax.similarity.encoders.pooling import pool, unit

# Part of every fingerprint: raise it when the same model would give other embeddings.
_VERSION = 1


def read_layer(settings: States, model: ModelConfig) -> int:
    """After how many layers the states are taken.

    Raises:
        UserError: the model has fewer.
    """
    layer = settings.layer or model.num_layers
    check(
        layer <= model.num_layers,
        f"{STATES}{settings.model}: layer={layer}, but the model has {model.num_layers}; give "
        f"1 to {model.num_layers}",
    )
    return layer


class StatesEncoder:
    """A decoder of ours, read at one of its layers; computed in float32.

    Attributes:
        name: what was asked for, every setting spelled out.
        dimension: D, the width of the model.
        fingerprint: SHA-256 over everything that decides an embedding: the weights of the layers
            that are computed, config, tokenizer, form, settings and this module's version.
        max_tokens: longer conversations are cut to this many.
        prompts, default_prompt: there are none.
        conversations: True: what is embedded is what `views.conversations` gives.
    """

    def __init__(
        self,
        model: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        form: Form,
        settings: States,
        *,
        mesh: Mesh | None = None,
        called: str = "",
    ) -> None:
        """Takes an opened decoder.

        Args:
            model, params: its config, and all its weights as `model.apply` takes them.
            tokenizer, form: how conversations become tokens.
            settings: which layer is read, and how; their `template` and `truncation` are `form`'s.
            mesh: as `Buckets` takes it.
            called: its name; "" for `settings.model`.

        Raises:
            UserError: there is no such layer, or the tokenizer has words that the model has not.
        """
        layer = read_layer(settings, model)
        self.name = (
            f"{STATES}{called or settings.model},layer={layer},pooling={settings.pooling},"
            f"tokens={settings.tokens}"
        )
        self.prompts: Mapping[str, str] = {}
        self.default_prompt: str | None = None
        self.conversations = True
        self._needed = needed(settings)
        self._conversations = Conversations(
            f"{STATES}{settings.model}", model, tokenizer, form, settings.length
        )
        self.max_tokens = self._conversations.max_tokens
        self.dimension = model.hidden_size
        last = layer == model.num_layers
        config, params = first_layers(model, params, layer)
        decides = [settings.pooling, settings.tokens, last, self.max_tokens]
        told = self._conversations.told
        self.fingerprint = fingerprint(params, _VERSION, config, decides, told)
        hidden, pooling = hidden_states(config, normed=last), POOLINGS[settings.pooling]

        def embed(
            params: Any, tokens_BxL: jax.Array, lengths_B: jax.Array, counted_BxL: jax.Array
        ) -> jax.Array:
            with jax.default_matmul_precision("highest"):
                mask_BxL = jnp.arange(tokens_BxL.shape[1]) < lengths_B[:, None]
                hidden_BxLxD = hidden(params, tokens_BxL, mask_BxL)
                return unit(pool((pooling,), hidden_BxLxD, lengths_B, counted_BxL))

        self._buckets = Buckets(
            embed, params, dimension=self.dimension, max_tokens=self.max_tokens, mesh=mesh
        )

    def encode(
        self, texts: Sequence[str], on_progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """The embeddings of conversations, (n, D) float32 of length one, in the order given.

        One without a token has zeros. Which others are given with it changes no bit, as in
        `SentenceEncoder.encode`.

        Args:
            texts: as `views.conversations` gives them.
            on_progress: called with the number of texts that have just been finished.

        Raises:
            UserError: a conversation does not fit the form, or has no answer token although those
                alone are pooled.
        """
        tokens = self._conversations.tokens(texts, self._needed)
        if not self._needed:
            tokens = (one._replace(counted=None) for one in tokens)
        return self._buckets.encode(tokens, len(texts), on_progress)
