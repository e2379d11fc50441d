"""What the report tells of the fields of a test record: a new one is an entry of `METRICS`."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Metric(NamedTuple):
    """How the report tells a field of the test records.

    Attributes:
        title: of its figures and tables.
        label: of its axes and columns.
        meaning: a sentence for its caption.
        best: min or max: which of several arrangements' final values is marked.
        digits: behind the point, in tables.
        right_or_wrong: whether an example is either, so that McNemar's test applies.
    """

    title: str
    label: str
    meaning: str
    best: Callable[..., Any]
    digits: int = 2
    right_or_wrong: bool = False


_ROUGE = "Overlap of generated texts and references, F-measure from 0 to 100, by"
# What has figures of its own and a column of final values; a field NAME may have values by task in
# NAME_by_task and by category in NAME_by_category. Other numbers share the figure of scores.
METRICS = {
    "loss": Metric("Test loss", "test loss", "Nats a token, mean over test instances.", min, 4),
    "exact_match": Metric(
        "Exact match",
        "exact match",
        "Percent of generated texts that equal a reference but for case, punctuation and spaces.",
        max,
        right_or_wrong=True,
    ),
    "rougeL": Metric("ROUGE-L", "ROUGE-L", f"{_ROUGE} longest common subsequence.", max),
    "rouge1": Metric("ROUGE-1", "ROUGE-1", f"{_ROUGE} single words.", max),
    "accuracy": Metric(
        "Accuracy of choices",
        "accuracy",
        "Percent of test instances with choices whose right one has the highest log-likelihood.",
        max,
        right_or_wrong=True,
    ),
    "reward": Metric("Reward", "reward", "What a reward model gives generated texts.", max, 4),
}


# The other fields of test records, in plain words.
_WORDS = {
    "rouge2": "ROUGE-2",
    "rouge1_unicode": "ROUGE-1 of words in any script",
    "rouge2_unicode": "ROUGE-2 of words in any script",
    "rougeL_unicode": "ROUGE-L of words in any script",
    "exact_match_unicode": "exact match in any script",
    "accuracy_per_token": "accuracy by likelihood a token",
    "accuracy_per_character": "accuracy by likelihood a character",
    "accuracy_per_byte": "accuracy by likelihood a byte",
    "accuracy_unconditional": "accuracy by what the prompt adds",
    "headline": "headline score of each category",
    "generated_tokens": "tokens of a generated text",
    "empty": "empty texts",
    "choice_ties": "examples with tied choices",
    "choice_examples": "examples with choices",
    "choice_dropped": "examples whose choices were dropped",
}


def metric_of(name: str) -> Metric:
    """A field's entry of `METRICS`, or a plain one for another number of test records."""
    right_or_wrong = name.startswith(("exact_match", "accuracy"))
    label = _WORDS.get(name, name)
    title = label[:1].upper() + label[1:]
    return METRICS.get(name) or Metric(title, label, "", max, right_or_wrong=right_or_wrong)
