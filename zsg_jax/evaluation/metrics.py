"""What may be measured, by the names that evaluation.metrics takes."""

from collections.abc import Iterable

# Of generated texts.
TEXTS = ("generate", "rouge", "exact_match", "reward")
METRICS = ("loss", *TEXTS, "choices")


def need_texts(metrics: Iterable[str]) -> bool:
    """Whether texts are generated for these metrics."""
    return any(name in TEXTS for name in metrics)
