"""Reads configs and weights in the Hugging Face layout, from a folder, into this project's own.

The layout is a folder with `config.json` and either `model.safetensors` or shards named by
`model.safetensors.index.json`. Nothing is downloaded, nothing is unpickled, and whatever in the
config would change the computation without this project computing it is refused by name.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from zsg_jax.errors import UserError, check
from zsg_jax.models import bert, llama
from zsg_jax.models.weights import Params, Weights, load, read_json

# Written by one version or another of transformers and without effect on the forward pass.
_HARMLESS = """
_attn_implementation _name_or_path architectures attention_dropout attention_probs_dropout_prob
attn_implementation bos_token_id chunk_size_feed_forward classifier_dropout dtype eos_token_id
gradient_checkpointing hidden_dropout_prob id2label initializer_range is_encoder_decoder label2id
max_length max_sequence_length mlp_dropout output_attentions output_hidden_states pad_token_id
pretraining_tp problem_type return_dict tokenizer_class torch_dtype transformers_version use_cache
"""

_LLAMA_MODULES = {
    "embed": "model.embed_tokens",
    "layers.#.attention.q": "model.layers.#.self_attn.q_proj",
    "layers.#.attention.k": "model.layers.#.self_attn.k_proj",
    "layers.#.attention.v": "model.layers.#.self_attn.v_proj",
    "layers.#.attention.o": "model.layers.#.self_attn.o_proj",
    "layers.#.mlp.gate": "model.layers.#.mlp.gate_proj",
    "layers.#.mlp.up": "model.layers.#.mlp.up_proj",
    "layers.#.mlp.down": "model.layers.#.mlp.down_proj",
    "layers.#.attention_norm": "model.layers.#.input_layernorm",
    "layers.#.mlp_norm": "model.layers.#.post_attention_layernorm",
    "norm": "model.norm",
    "lm_head": "lm_head",
}

_BERT_MODULES = {
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
}


class _Config:
    """Takes keys out of a config.json, so that what nobody took can be named."""

    def __init__(self, folder: str | Path, model_type: str) -> None:
        self.path = Path(folder) / "config.json"
        self.values = read_json(self.path)
        check(isinstance(self.values, dict), f"{self.path}: holds no JSON object; fetch it again")
        found = self.take("model_type")
        check(
            found != "gpt2",
            f"{self.path}: is a GPT-2, whose weights are not read; take a Llama, or train from"
            " random weights with model.family=gpt2 and no model.init_from",
        )
        self.refuse_unless("model_type", found, model_type)
        self.only("quantization_config", None)

    def take(self, key: str, default: Any = None) -> Any:
        value = self.values.pop(key, None)
        return default if value is None else value

    def number(self, key: str, default: float | None = None) -> Any:
        """A number that must be there unless it has a default; the config checks its range."""
        value = self.take(key, default)
        check(value is not None, f"{self.path}: {key!r} is missing; fetch the file again")
        number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        check(number, f"{self.path}: {key} is {value!r}; give a number above 0")
        return value

    def only(self, key: str, allowed: Any) -> None:
        """Refuses any value but `allowed`; an absent or null key means `allowed`."""
        self.refuse_unless(key, self.take(key, allowed), allowed)

    def refuse_unless(self, key: str, found: Any, allowed: Any) -> None:
        check(
            found == allowed,
            f"{self.path}: {key} is {found!r}, but only {allowed!r} is computed here;"
            " take another model",
        )

    def rope_theta(self) -> Any:
        """The base of the rotary positions, which every version of transformers puts elsewhere."""
        theta = self.number("rope_theta", 10000.0)
        for key in ("rope_scaling", "rope_parameters"):  # the older and the newer name
            rope = self.take(key, {})
            check(isinstance(rope, dict), f"{self.path}: {key} is {rope!r}; give an object or null")
            theta = rope.get("rope_theta", theta)  # its range is the config's to check
            default = {"rope_theta": theta, "partial_rotary_factor": 1.0}
            default |= {"rope_type": "default", "type": "default"}
            for name, value in rope.items():
                self.refuse_unless(f"{key}.{name}", value, default.get(name))
        return theta

    def build(self, make: Callable[..., Any], **values: Any) -> Any:
        """Refuses keys that nobody took, then makes the config, naming the file if it objects."""
        for key in self.values.keys() - set(_HARMLESS.split()):
            check(
                self.values[key] is None,
                f"{self.path}: {key} is {self.values[key]!r}, a key not known here; delete it from"
                " the file if the model computes the same without it",
            )
        try:
            return make(**values)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None


def read_llama_config(folder: str | Path) -> llama.LlamaConfig:
    """The config of the Llama in `folder`; `UserError` names what is missing or not supported."""
    config = _Config(folder, "llama")
    config.only("hidden_act", "silu")
    config.only("attention_bias", False)
    config.only("mlp_bias", False)
    config.only("partial_rotary_factor", 1.0)
    heads, width = config.number("num_attention_heads"), config.number("hidden_size")
    return config.build(
        llama.LlamaConfig,
        vocab_size=config.number("vocab_size"),
        hidden_size=width,
        intermediate_size=config.number("intermediate_size"),
        num_layers=config.number("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=config.number("num_key_value_heads", heads),
        head_dim=config.number("head_dim", width // heads),
        max_positions=config.number("max_position_embeddings", 2048),
        rope_theta=config.rope_theta(),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        tie_embeddings=config.take("tie_word_embeddings", False),
    )


def read_bert_config(folder: str | Path) -> bert.BertConfig:
    """The config of the BERT in `folder`; `UserError` names what is missing or not supported."""
    config = _Config(folder, "bert")
    config.only("hidden_act", "gelu")
    config.only("position_embedding_type", "absolute")
    config.only("is_decoder", False)
    config.only("add_cross_attention", False)
    config.take("tie_word_embeddings")  # concerns a head that is not computed here
    return config.build(
        bert.BertConfig,
        vocab_size=config.number("vocab_size"),
        hidden_size=config.number("hidden_size"),
        intermediate_size=config.number("intermediate_size"),
        num_layers=config.number("num_hidden_layers"),
        num_heads=config.number("num_attention_heads"),
        max_positions=config.number("max_position_embeddings", 512),
        type_vocab_size=config.number("type_vocab_size", 2),
        layer_norm_eps=config.number("layer_norm_eps", 1e-12),
    )


def _names(shapes: Params, modules: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    """From every path of `shapes`, joined by dots, to the name of its tensor in the files."""
    names = {}
    for path in traverse_util.flatten_dict(shapes, sep="."):
        module, leaf = path.rsplit(".", 1)
        number = re.search(r"\d+", module)
        theirs = modules[re.sub(r"\d+", "#", module)].replace("#", number[0] if number else "")
        names[path] = f"{prefix}{theirs}.{'bias' if leaf == 'bias' else 'weight'}"
    return names


def load_llama(
    folder: str | Path, config: llama.LlamaConfig, shardings: Params | None = None
) -> Params:
    """The weights of the Llama in `folder` as `llama.apply` takes them, float32.

    Args:
        folder: holds `model.safetensors` or its shards, in float32, float16 or bfloat16.
        config: what `read_llama_config` gives for it.
        shardings: the parameters' nested dict with a `jax.sharding.Sharding` at each; every
            device then gets its own part alone, and no host holds more than its devices do.

    Raises:
        UserError: a file or tensor is missing, damaged, of another shape, or one too many.
    """
    weights, names, shapes = _open_llama(folder, config)
    return load(weights, names, shapes, shardings)


def check_llama(folder: str | Path, config: llama.LlamaConfig) -> str:
    """Looks at every tensor's name, shape and dtype, reads none, and fingerprints the files.

    Returns:
        SHA-256 over config.json and the weight files.

    Raises:
        UserError: as `load_llama`, but before any work is done.
    """
    weights, names, shapes = _open_llama(folder, config)
    for path, leaf in traverse_util.flatten_dict(shapes, sep=".").items():
        weights.reader(names[path], leaf.shape, path.endswith(".kernel"))
    digest = hashlib.sha256()
    for path in sorted(
        {Path(folder) / "config.json", *(file for file, _ in weights.where.values())}
    ):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _open_llama(
    folder: str | Path, config: llama.LlamaConfig
) -> tuple[Weights, dict[str, str], Params]:
    weights = Weights(folder)
    _, shapes = llama.abstract(config)
    names = _names(shapes, _LLAMA_MODULES)
    harmless = r".*rotary_emb\.inv_freq|.*position_ids"
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    if config.tie_embeddings:
        shape = (config.vocab_size, config.hidden_size)
        # Some files keep a copy of the tied table, which is fine for as long as it is a copy.
        if head in weights.where:
            copy, table = (
                weights.reader(name, shape, False)(slice(None)) for name in (head, embedding)
            )
            harmless += r"|lm_head\.weight" if np.array_equal(copy, table) else ""
    weights.refuse_others(set(names.values()), harmless)
    return weights, names, shapes


def load_bert(folder: str | Path, config: bert.BertConfig) -> Params:
    """The weights of the BERT in `folder` as `bert.apply` takes them, float32; no pooler, no head.

    Raises:
        UserError: a file or tensor is missing, damaged, of another shape, or one too many.
    """
    weights = Weights(folder)
    prefix = "bert." if any(name.startswith("bert.") for name in weights.where) else ""
    _, shapes = bert.abstract(config)
    names = _names(shapes, _BERT_MODULES, prefix)
    weights.refuse_others(set(names.values()), r".*position_ids|(bert\.)?pooler\..*|cls\..*")
    return load(weights, names, shapes, None)
