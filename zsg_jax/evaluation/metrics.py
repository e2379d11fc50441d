"""What may be measured, by the names that evaluation.metrics takes."""

from collections.abc import Iterable

from zsg_jax.evaluation import scores

# Of generated texts; "generate" keeps the texts and scores nothing.
TEXTS = ("generate", *scores.METRICS, "reward")
METRICS = ("loss", *TEXTS, "choices")
# A field of the test record of a step at which a metric was measured.
FIELDS = {
    **{name: metric.fields[0] for name, metric in scores.METRICS.items()},
    **{"loss": "loss", "generate": "generated_tokens", "reward": "reward", "choices": "accuracy"},
}


def need_texts(metrics: Iterable[str]) -> bool:
    """Whether texts are generated for these metrics."""
    return any(name in TEXTS for name in metrics)
