"""The language models that can be trained, by the name of their family."""

from types import ModuleType

from zsg_jax.models import gpt2, llama, mistral, qwen2, qwen3

ModelConfig = (
    llama.LlamaConfig
    | mistral.MistralConfig
    | qwen2.Qwen2Config
    | qwen3.Qwen3Config
    | gpt2.Gpt2Config
)

# Each module has SIZES, sized, abstract, initialize, apply and count. The names are those that
# Hugging Face gives as model_type.
FAMILIES: dict[str, ModuleType] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gpt2": gpt2,
}
_NAMES: dict[type, str] = {
    llama.LlamaConfig: "llama",
    mistral.MistralConfig: "mistral",
    qwen2.Qwen2Config: "qwen2",
    qwen3.Qwen3Config: "qwen3",
    gpt2.Gpt2Config: "gpt2",
}


def family_name(model: ModelConfig) -> str:
    """The key of `model` in `FAMILIES`."""
    return _NAMES[type(model)]


def family_of(model: ModelConfig) -> ModuleType:
    """The module that computes `model`."""
    return FAMILIES[family_name(model)]
