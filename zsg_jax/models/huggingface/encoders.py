"""Encoders of sentences in the Hugging Face layout: their configs, and how their tensors are named.

A new family is a row of `_KEYS` and of `_LAYOUTS`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from zsg_jax.models import encoder, model
from zsg_jax.models.decoder import DecoderConfig
from zsg_jax.models.encoder import EncoderConfig
from zsg_jax.models.families import ModelConfig
from zsg_jax.models.huggingface.configs import config_path, read_config
from zsg_jax.models.huggingface.layouts import LAYOUTS, Layout
from zsg_jax.models.huggingface.reader import ConfigReader
from zsg_jax.models.huggingface.weights import Weights
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import check

Config = EncoderConfig | DecoderConfig
_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "max_positions": "max_position_embeddings",
    "layer_norm_eps": "layer_norm_eps",
}
_TYPED = {**_NAMES, "type_vocab_size": "type_vocab_size"}
# Where files leave numbers out, BERT's stand for them.
_DEFAULTS = {"max_positions": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12}


class _Keys(NamedTuple):
    """What a family's config.json holds.

    Attributes:
        names: of numbers, by ours.
        fixed: keys that must have this value, which is meant too where they are left out.
        padded: whether positions begin behind the number of the padding token.
        ignored: keys of no effect on the hidden states: heads, training, and Google's poolers.
    """

    names: dict[str, str]
    fixed: dict[str, Any]
    padded: bool = False
    ignored: str = ""


_ABSOLUTE: dict[str, Any] = {
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
_POOLERS = """directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
    pooler_size_per_head pooler_type"""
_KEYS = {
    "bert": _Keys(_TYPED, _ABSOLUTE, ignored=_POOLERS),
    "roberta": _Keys(_TYPED, _ABSOLUTE, padded=True),
    "xlm-roberta": _Keys(_TYPED, _ABSOLUTE, padded=True, ignored="output_past"),
    "mpnet": _Keys(
        {**_NAMES, "relative_buckets": "relative_attention_num_buckets"},
        # transformers counts with 32 whatever the file says.
        {**_ABSOLUTE, "relative_attention_num_buckets": 32},
        padded=True,
    ),
    "distilbert": _Keys(
        {
            "vocab_size": "vocab_size",
            "hidden_size": "dim",
            "intermediate_size": "hidden_dim",
            "num_layers": "n_layers",
            "num_heads": "n_heads",
            "max_positions": "max_position_embeddings",
        },
        {"activation": "gelu"},
        # Sinusoids are how the table of positions begins; the files hold it.
        ignored="dropout qa_dropout seq_classif_dropout sinusoidal_pos_embds tie_weights_",
    ),
    "modernbert": _Keys(
        {**_NAMES, "layer_norm_eps": "norm_eps"},
        {"hidden_activation": "gelu", "position_embedding_type": "absolute"},
        ignored="""classifier_activation classifier_bias classifier_pooling cls_token_id
            decoder_bias deterministic_flash_attn embedding_dropout initializer_cutoff_factor
            layer_norm_eps reference_compile repad_logits_with_grad sparse_pred_ignore_index
            sparse_prediction""",
    ),
}
FAMILIES = (*_KEYS, "qwen3", "gemma3_text")

_BERT = Layout(
    modules={
        "word": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
        "token_type": "embeddings.token_type_embeddings",
        "norm": "embeddings.LayerNorm",
        "layers.#.attention.q": "encoder.layer.#.attention.self.query",
        "layers.#.attention.k": "encoder.layer.#.attention.self.key",
        "layers.#.attention.v": "encoder.layer.#.attention.self.value",
        "layers.#.attention.o": "encoder.layer.#.attention.output.dense",
        "layers.#.attention_norm": "encoder.layer.#.attention.output.LayerNorm",
        "layers.#.mlp.up": "encoder.layer.#.intermediate.dense",
        "layers.#.mlp.down": "encoder.layer.#.output.dense",
        "layers.#.mlp_norm": "encoder.layer.#.output.LayerNorm",
    },
    prefix="bert.",
    harmless=r".*position_ids|(bert\.)?pooler\..*|cls\..*",
)
_ROBERTA = _BERT._replace(
    prefix="roberta.",
    harmless=r".*position_ids|.*\.token_type_ids|(roberta\.)?pooler\..*|lm_head\..*",
)
_MPNET = Layout(
    modules={
        **_BERT.modules,
        "relative": "encoder.relative_attention_bias",
        "layers.#.attention.q": "encoder.layer.#.attention.attn.q",
        "layers.#.attention.k": "encoder.layer.#.attention.attn.k",
        "layers.#.attention.v": "encoder.layer.#.attention.attn.v",
        "layers.#.attention.o": "encoder.layer.#.attention.attn.o",
        "layers.#.attention_norm": "encoder.layer.#.attention.LayerNorm",
    },
    prefix="mpnet.",
    harmless=r".*position_ids|(mpnet\.)?pooler\..*|lm_head\..*",
)
_DISTILBERT = Layout(
    modules={
        **_BERT.modules,
        "layers.#.attention.q": "transformer.layer.#.attention.q_lin",
        "layers.#.attention.k": "transformer.layer.#.attention.k_lin",
        "layers.#.attention.v": "transformer.layer.#.attention.v_lin",
        "layers.#.attention.o": "transformer.layer.#.attention.out_lin",
        "layers.#.attention_norm": "transformer.layer.#.sa_layer_norm",
        "layers.#.mlp.up": "transformer.layer.#.ffn.lin1",
        "layers.#.mlp.down": "transformer.layer.#.ffn.lin2",
        "layers.#.mlp_norm": "transformer.layer.#.output_layer_norm",
    },
    prefix="distilbert.",
    harmless=r".*position_ids|vocab_.*",
)
_MODERNBERT = Layout(
    modules={
        "word": "embeddings.tok_embeddings",
        "norm": "embeddings.norm",
        "layers.#.attention.qkv": "layers.#.attn.Wqkv",
        "layers.#.attention.o": "layers.#.attn.Wo",
        "layers.#.attention_norm": "layers.#.attn_norm",
        "layers.#.mlp.up": "layers.#.mlp.Wi",
        "layers.#.mlp.down": "layers.#.mlp.Wo",
        "layers.#.mlp_norm": "layers.#.mlp_norm",
        "last_norm": "final_norm",
    },
    prefix="model.",
    harmless=r"head\..*|decoder\..*",
)
_LAYOUTS = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": _MPNET,
    "distilbert": _DISTILBERT,
    "modernbert": _MODERNBERT,
}


def read_encoder_config(folder: str | Path) -> Config:
    """The config of the encoder in `folder`.

    A decoder's has tied embeddings, whatever the file says: its head is not computed.

    Raises:
        UserError: naming what is missing, what is not computed here, or the family that it is.
    """
    config = ConfigReader(config_path(folder))
    family = config.take("model_type")
    config.refuse_unless("model_type", family, *FAMILIES)
    if family not in _KEYS:
        found = read_config(folder, any_head=True, both_ways=True)
        assert isinstance(found, DecoderConfig)
        return replace(found, tie_embeddings=True)
    keys = _KEYS[family]
    config.ignore("tie_word_embeddings")  # concerns a head that is not computed here
    padding = config.take("pad_token_id", 1)
    more: dict[str, Any] = _modernbert(config) if family == "modernbert" else {}
    for key, value in keys.fixed.items():
        config.only(key, value)
    if family == "mpnet":
        more["relative_buckets"] = keys.fixed["relative_attention_num_buckets"]
        padding = 1  # whatever the file says
    config.ignore(keys.ignored)
    defaults = {key: value for key, value in _DEFAULTS.items() if key in keys.names}
    names = {ours: theirs for ours, theirs in keys.names.items() if ours not in more}
    numbers = config.numbers(names, defaults)
    if keys.padded:
        more["padding_token"] = padding
        # Rows of the table, of which the first belong to no position.
        numbers["max_positions"] -= padding + 1
    return config.build(EncoderConfig, family=family, **numbers, **more)


def _modernbert(config: ConfigReader) -> dict[str, Any]:
    """What ModernBERT has besides: local and global layers, each with a base of its rotation."""
    layers = int(config.number("num_hidden_layers"))
    config.values["num_hidden_layers"] = layers
    every = int(config.number("global_attn_every_n_layers", 3))
    kinds = config.take("layer_types") or [
        "sliding_attention" if i % every else "full_attention" for i in range(layers)
    ]
    for kind in kinds:
        config.refuse_unless("layer_types", kind, "full_attention", "sliding_attention")
    check(len(kinds) == layers, f"{config.path}: layer_types has {len(kinds)} of {layers} layers")
    bases = {
        "full_attention": config.number("global_rope_theta", 160000.0),
        "sliding_attention": config.number("local_rope_theta", 10000.0),
    }
    for kind, rope in config.take("rope_parameters", {}).items():
        config.refuse_unless("rope_parameters", kind, *bases)
        rope = dict(rope or {})
        config.refuse_unless("rope_type", rope.pop("rope_type", "default"), "default")
        bases[kind] = rope.pop("rope_theta", bases[kind])
        for key, value in rope.items():
            config.refuse_key(f"rope_parameters.{kind}.{key}", value)
    # As many on either side of a token.
    reach = int(config.number("local_attention", 128)) // 2
    return {
        "windows": tuple(reach if kind == "sliding_attention" else None for kind in kinds),
        "rope_thetas": tuple(float(bases[kind]) for kind in kinds),
        "norm_first": True,
        "gated": True,
        "fused": True,
        **{name: config.take(name, False) for name in ("attention_bias", "mlp_bias", "norm_bias")},
    }


def load_encoder(folder: str | Path, config: Config) -> Params:
    """The weights of the encoder in `folder`, float32; no pooler, no head.

    Raises:
        UserError: a file or tensor is missing, damaged, of another shape, or one too many.
    """
    if isinstance(config, EncoderConfig):
        _, shapes = encoder.abstract(config)
        return Weights(folder, _LAYOUTS[config.family], shapes).load(shapes)
    named = LAYOUTS[config.family]
    layout = Layout(
        modules={ours: name.removeprefix("model.") for ours, name in named.modules.items()},
        prefix="model.",
        harmless=rf"{named.harmless}|lm_head\.weight",
    )
    _, shapes = model.abstract(config)
    return Weights(folder, layout, shapes).load(shapes)


def hidden_states(
    config: Config | ModelConfig, *, normed: bool = True
) -> Callable[[Params, jax.Array, jax.Array], jax.Array]:
    """What computes the last hidden states, (B, L, D) float32, of a model of this config.

    It takes the parameters, tokens (B, L) int32 and a mask (B, L), true where a token is. Without
    `normed` they are those of a decoder before its last norm.
    """
    if isinstance(config, EncoderConfig):
        graphdef, _ = encoder.abstract(config)
        return lambda params, tokens, mask: encoder.apply(graphdef, params, tokens, mask)
    graphdef, _ = model.abstract(config)

    def hidden(params: Params, tokens_BxL: jax.Array, mask_BxL: jax.Array) -> jax.Array:
        places_BxL = jnp.broadcast_to(jnp.arange(tokens_BxL.shape[1]), tokens_BxL.shape)
        segments_BxL = mask_BxL.astype(jnp.int32)
        if not normed:
            return model.states(graphdef, params, tokens_BxL, places_BxL, segments_BxL)
        return model.hidden(graphdef, params, tokens_BxL, places_BxL, segments_BxL)[0]

    return hidden
