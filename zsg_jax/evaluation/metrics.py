"""What may be measured, by the names that evaluation.metrics takes."""

from collections.abc import Iterable

from zsg_jax.evaluation import scores

# Of generated texts; "generate" keeps the texts and scores nothing.
TEXTS = ("generate", *scores.METRICS, "reward")
METRICS = ("loss", *TEXTS, "choices")


def need_texts(metrics: Iterable[str]) -> bool:
    """Whether texts are generated for these metrics."""
    return any(name in TEXTS for name in metrics)
