"""From config.json to the configs of every family, and back; only what is computed is let in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from zsg_jax.models import bert, gpt2, llama, mistral, qwen2, qwen3, rotary, shapes
from zsg_jax.models.families import ModelConfig, family_name
from zsg_jax.models.huggingface.reader import ConfigReader
from zsg_jax.runtime.errors import check

_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GPT2LMHeadModel": "gpt2",
}


def config_path(folder: str | Path) -> Path:
    """The config.json of a folder, or the file itself."""
    path = Path(folder)
    return path if path.suffix == ".json" else path / "config.json"


def read_config(folder: str | Path, family: str = "") -> ModelConfig:
    """The config of the language model in `folder`, or in a file like config.json.

    Args:
        folder: in the Hugging Face layout.
        family: what it must be, one of `FAMILIES`; "" for any of them.

    Raises:
        UserError: naming what is missing, what is not computed here, or the family that it is.
    """
    config = ConfigReader(config_path(folder))
    named = config.values.get("architectures") or []
    names = named if isinstance(named, list) else [named]
    known = {_ARCHITECTURES.get(str(name)) for name in names}
    found = config.take("model_type", next(iter(known)) if len(known) == 1 else None)
    check(found is not None, f"{config.path}: 'model_type' is missing; fetch the file again")
    config.refuse_unless("model_type", found, *_READERS)
    check(
        not known or found in known,
        f"{config.path}: model_type is {found!r}, but architectures is {named!r};"
        " only causal language models are trained: take another model, or mend the file",
    )
    check(
        not family or found == family,
        f"{config.path}: model_type is {found!r}, but model.family={family};"
        " leave model.family out",
    )
    return _READERS[found](config)


def read_bert_config(folder: str | Path) -> bert.BertConfig:
    """The config of the BERT in `folder`; `UserError` names what is missing or not supported."""
    config = ConfigReader(config_path(folder))
    config.refuse_unless("model_type", config.take("model_type"), "bert")
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


def _read_llama(config: ConfigReader) -> ModelConfig:
    config.only("attention_bias", False)
    config.only("mlp_bias", False)
    heads = config.number("num_attention_heads")
    return _read_rotary(config, llama.LlamaConfig, heads, kv_heads=heads, positions=2048)


def _read_mistral(config: ConfigReader) -> ModelConfig:
    # Left out, it means 4096 to transformers; null, as newer Mistrals have it, means no window.
    check(
        "sliding_window" in config.values,
        f"{config.path}: 'sliding_window' is missing; give its width, or null for none",
    )
    heads, window = config.number("num_attention_heads"), config.take("sliding_window")
    return _read_rotary(config, mistral.MistralConfig, heads, sliding_window=window)


def _read_qwen2(config: ConfigReader) -> ModelConfig:
    config.only("use_mrope", False)
    _refuse_windows(config)
    heads = config.number("num_attention_heads")
    return _read_rotary(config, qwen2.Qwen2Config, heads)


def _read_qwen3(config: ConfigReader) -> ModelConfig:
    config.only("attention_bias", False)
    _refuse_windows(config)
    check("head_dim" in config.values, f"{config.path}: 'head_dim' is missing; fetch it again")
    heads = config.number("num_attention_heads")
    return _read_rotary(config, qwen3.Qwen3Config, heads)


def _refuse_windows(config: ConfigReader) -> None:
    """Qwen may give a window to some of its layers; none of those published does."""
    config.only("use_sliding_window", False)
    config.ignore("sliding_window max_window_layers")
    for kind in config.take("layer_types", []):
        config.refuse_unless("layer_types", kind, "full_attention")


def _read_rotary(
    config: ConfigReader,
    make: Callable[..., ModelConfig],
    heads: int,
    *,
    kv_heads: int | None = None,
    positions: int | None = None,
    **more: Any,
) -> ModelConfig:
    config.only("hidden_act", "silu")
    width, (theta, scaling) = config.number("hidden_size"), config.rope()
    return config.build(
        make,
        vocab_size=config.number("vocab_size"),
        hidden_size=width,
        intermediate_size=config.number("intermediate_size"),
        num_layers=config.number("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=config.number("num_key_value_heads", kv_heads),
        head_dim=config.number("head_dim", width // heads),
        max_positions=config.number("max_position_embeddings", positions),
        rope_theta=theta,
        rope_scaling=scaling,
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        tie_embeddings=config.take("tie_word_embeddings", False),
        **more,
    )


def _read_gpt2(config: ConfigReader) -> ModelConfig:
    config.only("activation_function", "gelu_new")
    config.only("scale_attn_weights", True)
    config.only("scale_attn_by_inverse_layer_idx", False)
    config.only("add_cross_attention", False)
    config.only("tie_word_embeddings", True)
    # Dropout, and heads that are no language model's; the softmax is in float32 here anyway.
    config.ignore("resid_pdrop embd_pdrop attn_pdrop reorder_and_upcast_attn n_ctx")
    config.ignore("summary_type summary_use_proj summary_activation summary_proj_to_labels")
    config.ignore("summary_first_dropout task_specific_params")
    width = config.number("n_embd")
    return config.build(
        gpt2.Gpt2Config,
        vocab_size=config.number("vocab_size"),
        hidden_size=width,
        intermediate_size=config.number("n_inner", 4 * width),
        num_layers=config.number("n_layer"),
        num_heads=config.number("n_head"),
        max_positions=config.number("n_positions"),
        layer_norm_eps=float(config.number("layer_norm_epsilon", 1e-5)),
    )


_READERS: dict[str, Callable[[ConfigReader], ModelConfig]] = {
    "llama": _read_llama,
    "mistral": _read_mistral,
    "qwen2": _read_qwen2,
    "qwen3": _read_qwen3,
    "gpt2": _read_gpt2,
}


def config_json(model: ModelConfig) -> dict[str, Any]:
    """The config.json of a model that came from none; `read_config` gives `model` again."""
    family = family_name(model)
    (architecture,) = (name for name, one in _ARCHITECTURES.items() if one == family)
    content: dict[str, Any] = {"architectures": [architecture], "model_type": family}
    content["vocab_size"] = model.vocab_size
    if isinstance(model, gpt2.Gpt2Config):
        return content | {
            "n_embd": model.hidden_size,
            "n_inner": model.intermediate_size,
            "n_layer": model.num_layers,
            "n_head": model.num_heads,
            "n_positions": model.max_positions,
            "layer_norm_epsilon": model.layer_norm_eps,
            "activation_function": "gelu_new",
            "tie_word_embeddings": True,
            # It was trained without, and transformers would put 0.1 for what is left out.
            **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        }
    content |= _rotary_json(model)
    if isinstance(model, mistral.MistralConfig):
        content["sliding_window"] = model.sliding_window
    if isinstance(model, qwen2.Qwen2Config | qwen3.Qwen3Config):
        content["use_sliding_window"] = False
    return content


def _rotary_json(model: shapes.RotaryConfig) -> dict[str, Any]:
    return {
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "max_position_embeddings": model.max_positions,
        "hidden_act": "silu",
        "rms_norm_eps": model.rms_norm_eps,
        "rope_theta": model.rope_theta,
        "rope_scaling": _scaling_json(model.rope_scaling),
        "tie_word_embeddings": model.tie_embeddings,
    }


def _scaling_json(scaling: rotary.RopeScaling | None) -> dict[str, Any] | None:
    if isinstance(scaling, rotary.LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    if isinstance(scaling, rotary.Llama3Scaling):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return None
