"""TRL's trainers, which take the sampler and the callback of those of transformers."""

from zsg_jax.integrations.transformers import ArrangedSampler, OrderCallback

__all__ = ["ArrangedSampler", "OrderCallback"]
