"""Texts that this program did not generate: others' predictions, and baselines without a model."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.data.dataset import Dataset
from zsg_jax.data.formats.jsonl import Refused, json_object, json_type
from zsg_jax.data.formats.natural_instructions import DEMONSTRATION
from zsg_jax.data.formats.registry import records
from zsg_jax.data.instance import Instance
from zsg_jax.data.schemas.checks import check_unicode
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.evaluation.aggregate import aggregate_records
from zsg_jax.evaluation.scores import score
from zsg_jax.runtime.errors import UserError, check, did_you_mean
from zsg_jax.runtime.progress import count, say

TEXT = ("text", "prediction", "output")  # fields one of which holds a prediction


class Scored(NamedTuple):
    """What `score_texts` gives: a record for every example, and the fields of them all."""

    records: list[dict[str, Any]]
    fields: dict[str, Any]


def read_predictions(path: Path, ids: Sequence[str]) -> list[str | None]:
    """Texts of examples from a file of JSON lines, `{"id": …, "text": …}`.

    Args:
        path: the text of each record stands under one of `TEXT`; other fields are left alone.
        ids: of the examples, each once.

    Returns:
        The text of each example, None for one that is not in the file; how many are not is said.

    Raises:
        UserError: by file and line: an id that is no example's or came before, a text that is
            missing, no string, or stands under two names. A file without any.
    """
    known = set(ids)
    texts: dict[str, str] = {}
    for record in records(path):
        try:
            if record.refusal:
                raise Refused(record.refusal)
            id, text = _prediction(json_object(record.raw))
            if id not in known:
                raise Refused(f'"id" {id!r} is none of the test rows\'{did_you_mean(id, ids, 0.8)}')
            if id in texts:
                raise Refused(f'"id" {id!r} came before; keep one prediction of each')
        except Refused as refusal:
            raise UserError(f"{record.location}: {refusal}") from None
        texts[id] = text
    missing = len(ids) - len(texts)
    check(bool(texts), f"{path}: holds no prediction; give one for each row that has one")
    if missing:
        say(f"{path}: has no prediction for {count(missing, 'row')} of {len(ids):,}; scored as ''")
    return [texts.get(id) for id in ids]


def _prediction(fields: Mapping[str, Any]) -> tuple[str, str]:
    id = fields.get("id")
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)
    if not isinstance(id, str):
        raise Refused('"id" is missing, or no string; give the id of a test row')
    names = [name for name in TEXT if name in fields]
    if len(names) != 1:
        what = "more than one of" if names else "none of"
        raise Refused(f"has {what} {', '.join(names or TEXT)}; give the prediction as one")
    text = fields[names[0]]
    if not isinstance(text, str):
        raise Refused(f'"{names[0]}" is a JSON {json_type(text)}, not a string')
    check_unicode(names[0], text)
    return id, text


def copy_input(dataset: Dataset) -> dict[str, str]:
    """id → the input to be completed, of tasks of Natural Instructions; of others the last prompt.

    The baseline that Super-NaturalInstructions calls by this name (arXiv 2204.07705, table 3).
    """
    found = {}
    for index, instance in enumerate(dataset):
        record = json.loads(dataset.own(index))
        of_task = DEMONSTRATION in record
        found[instance.id] = record["input"] if of_task else instance.turns[-2].content
    return found


def copy_demonstration(dataset: Dataset) -> dict[str, str]:
    """id → the output of its task's first positive example (arXiv 2204.07705, table 3).

    Raises:
        UserError: for an example of no task of Natural Instructions, or of one that shows none.
    """
    found = {}
    for index, instance in enumerate(dataset):
        shown = json.loads(dataset.own(index)).get(DEMONSTRATION)
        check(
            bool(shown),
            f"{instance.id}: its task {instance.task!r} has no positive example whose output could "
            "be copied; leave copy_demonstration out",
        )
        found[instance.id] = shown
    return found


def score_texts(
    instances: Sequence[Instance],
    texts: Sequence[str],
    metrics: Sequence[str],
    tokenizer: Tokenizer | None = None,
    rewards: Sequence[float] | np.ndarray | None = None,
) -> Scored:
    """Scores a text for each instance, as a model's own are; `metrics` as `scores.score` takes.

    `rewards` are what a reward model makes of the texts, where it was asked.
    """
    scored = []
    fields: dict[str, float] = {}
    for place, (instance, text) in enumerate(zip(instances, texts, strict=True)):
        fields = score(text, instance.references, metrics, tokenizer)
        if rewards is not None:
            fields["reward"] = float(rewards[place])
        told = {"id": instance.id, "task": instance.task, "category": instance.category}
        scored.append({**told, "text": text, "references": list(instance.references), **fields})
    return Scored(scored, aggregate_records(scored, fields))
