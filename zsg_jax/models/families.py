"""The language models that can be trained, by the name of their family."""

from types import ModuleType

from zsg_jax.models import gpt2, llama

ModelConfig = llama.LlamaConfig | gpt2.Gpt2Config

# Each module has SIZES, sized, abstract, initialize, apply and count.
FAMILIES: dict[str, ModuleType] = {"llama": llama, "gpt2": gpt2}


def family_of(model: ModelConfig) -> ModuleType:
    """The module that computes `model`."""
    return gpt2 if isinstance(model, gpt2.Gpt2Config) else llama
