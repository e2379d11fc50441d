"""From config.json to the configs of every family, and back; only what is computed is let in."""

from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.models.families import DEFAULT, FAMILIES, ModelConfig, is_file
from zsg_jax.models.gpt2 import Gpt2Config
from zsg_jax.models.huggingface.decoders import decoder_json, read_decoder
from zsg_jax.models.huggingface.reader import ConfigReader
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.foreign import reads
from zsg_jax.runtime.settings import setting


class _Keys(NamedTuple):
    """What a family's config.json holds.

    Attributes:
        architecture: transformers' class.
        fixed: keys that must have this value, which is meant too where they are left out.
        ignored: keys of no effect on what is computed.
    """

    architecture: str
    fixed: dict[str, Any]
    ignored: str = ""


_SILU = {"hidden_act": "silu"}
_BOTH_WAYS = "use_bidirectional_attention"
_GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, _BOTH_WAYS: False}
# Those of the fixed keys that config.json spells out.
_WRITTEN = ("hidden_act", "hidden_activation", "use_sliding_window")
# Qwen may give a window to some of its layers; none of those published does.
_NO_WINDOW = "sliding_window max_window_layers"
_KEYS = {
    "llama": _Keys("LlamaForCausalLM", {"hidden_act": "silu", "attention_bias": False}),
    "mistral": _Keys("MistralForCausalLM", {"hidden_act": "silu"}),
    "qwen2": _Keys(
        "Qwen2ForCausalLM",
        {"hidden_act": "silu", "use_mrope": False, "use_sliding_window": False},
        _NO_WINDOW,
    ),
    "qwen3": _Keys(
        "Qwen3ForCausalLM",
        {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False},
        _NO_WINDOW,
    ),
    "qwen3_moe": _Keys(
        "Qwen3MoeForCausalLM",
        {
            "hidden_act": "silu",
            "attention_bias": False,
            "use_sliding_window": False,
            # Layers without experts among those that have them.
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            # Would add to the loss.
            "output_router_logits": False,
        },
        _NO_WINDOW,
    ),
    "gpt_oss": _Keys(
        "GptOssForCausalLM",
        {"hidden_act": "silu", "attention_bias": True, "output_router_logits": False},
        # What num_experts_per_tok and the rope say too.
        "experts_per_token initial_context_length",
    ),
    "ministral": _Keys("MinistralForCausalLM", _SILU),
    "smollm3": _Keys(
        "SmolLM3ForCausalLM",
        {**_SILU, "attention_bias": False, "use_sliding_window": False},
        "sliding_window",
    ),
    "olmo2": _Keys("Olmo2ForCausalLM", {**_SILU, "attention_bias": False}),
    "olmo3": _Keys("Olmo3ForCausalLM", {**_SILU, "attention_bias": False}),
    "gemma2": _Keys("Gemma2ForCausalLM", _GEMMA),
    "gemma3_text": _Keys(
        "Gemma3ForCausalLM",
        {**_GEMMA, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "phi3": _Keys("Phi3ForCausalLM", {**_SILU, "attention_bias": False}),
    "gpt2": _Keys(
        "GPT2LMHeadModel",
        {
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
            "tie_word_embeddings": True,
        },
        # Dropout, and heads that are no language model's; the softmax is in float32 here anyway.
        "attn_pdrop reorder_and_upcast_attn n_ctx summary_type summary_use_proj summary_activation"
        " summary_proj_to_labels summary_first_dropout",
    ),
}
# From our names of numbers to theirs.
_GPT2 = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "max_positions": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
}


def config_path(folder: str | Path) -> Path:
    """The config.json of a folder, or the file itself."""
    path = Path(folder)
    return path if path.suffix == ".json" else path / "config.json"


def find_config(
    family: str, size: str, init_from: str, *, vocab_size: int, max_positions: int
) -> ModelConfig:
    """The config of the model that these settings of a study mean.

    Args:
        family: one of `FAMILIES`; "" for that of the folder or file, or `DEFAULT`.
        size: one of the family's sizes, or a file like config.json for random weights in its shape;
            not read where `init_from` is given.
        init_from: a Hugging Face folder, or "".
        vocab_size, max_positions: those of a named size.

    Raises:
        UserError: a file is missing, is not computed here, or is of another family.
    """
    if init_from or is_file(size):
        return read_config(init_from or size, family)
    return FAMILIES[family or DEFAULT].sized(size, vocab_size, max_positions)


@reads
def read_config(
    folder: str | Path, family: str = "", *, any_head: bool = False, both_ways: bool = False
) -> ModelConfig:
    """The config of the language model in `folder`, or in a file like config.json.

    Args:
        folder: in the Hugging Face layout.
        family: what it must be, one of `FAMILIES`; "" for any of them.
        any_head: whether "architectures" may name another head than that of a language model.
        both_ways: whether a token may see those after it, which tells of no next one.

    Raises:
        UserError: naming what is missing, what is not computed here, or the family that it is.
    """
    config = ConfigReader(config_path(folder))
    named = config.values.get("architectures") or []
    names = named if isinstance(named, list) else [named]
    families = {keys.architecture: name for name, keys in _KEYS.items()}
    known = {families.get(str(name)) for name in names}
    found = config.take("model_type", next(iter(known)) if len(known) == 1 else None)
    check(found is not None, f"{config.path}: 'model_type' is missing; fetch the file again")
    config.refuse_unless("model_type", found, *_KEYS)
    check(
        not known or found in known or any_head,
        f"{config.path}: model_type is {found!r}, but architectures is {named!r};"
        " only causal language models are trained: take another model, or mend the file",
    )
    check(
        not family or found == family,
        f"{config.path}: model_type is {found!r}, but "
        f"{setting('model.family', family)}; leave it out",
    )
    for key, value in _KEYS[found].fixed.items():
        if not (both_ways and key == _BOTH_WAYS):
            config.only(key, value)
    config.ignore(_KEYS[found].ignored)
    return _read_gpt2(config) if found == "gpt2" else read_decoder(config, found)


def _read_gpt2(config: ConfigReader) -> ModelConfig:
    width = config.number("n_embd")
    defaults = {"hidden_size": width, "intermediate_size": 4 * width, "layer_norm_eps": 1e-5}
    return config.build(Gpt2Config, **config.numbers(_GPT2, defaults))


def config_json(model: ModelConfig) -> dict[str, Any]:
    """The config.json of a model that came from none; `read_config` gives `model` again."""
    keys = _KEYS[model.family]
    content: dict[str, Any] = {"architectures": [keys.architecture], "model_type": model.family}
    if isinstance(model, Gpt2Config):
        content |= {theirs: getattr(model, ours) for ours, theirs in _GPT2.items()}
        return content | {
            "activation_function": "gelu_new",
            "tie_word_embeddings": True,
            # It was trained without, and transformers would put 0.1 for what is left out.
            **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        }
    content |= decoder_json(model)
    content |= {key: keys.fixed[key] for key in _WRITTEN if key in keys.fixed}
    return content
