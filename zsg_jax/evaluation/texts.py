"""Texts that a model writes for the test instances, kept and scored one by one."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.evaluation.aggregate import aggregate_records
from zsg_jax.evaluation.generation import Generator, Prompt, Written
from zsg_jax.evaluation.records import (
    GENERATIONS,
    SCORES,
    Record,
    measured,
    params_digest,
    read,
)
from zsg_jax.evaluation.scores import METRICS, score
from zsg_jax.evaluation.stops import NONE, Stops
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.progress import bar

# (places of instances, a text for each) -> (n,) rewards.
Reward = Callable[[Sequence[int], Sequence[str]], np.ndarray]


class TextEvaluator:
    """Generates texts and scores them; the fields of its records are means of what is kept.

    The texts follow from the parameters, the seed and the ids, as `Generator` says.
    """

    def __init__(
        self,
        generator: Generator,
        instances: Sequence[Instance],
        prompts: Sequence[np.ndarray],
        *,
        decode: Callable[[Sequence[int]], str],
        metrics: Sequence[str] = (),
        rouge_tokenizer: Tokenizer | None = None,
        reward: Reward | None = None,
        rewarded: Callable[[], object] | None = None,
        seed: int = 0,
        samples: int = 1,
        stops: Stops = NONE,
    ) -> None:
        """Takes what is asked of every set of parameters.

        Args:
            instances: N, with the references that texts are scored against.
            prompts: (L,) int32 tokens of each, as `encode.encode_prompts` gives them.
            decode: tokens to text.
            metrics, rouge_tokenizer: as `scores.score` takes them; none keeps the texts alone.
            reward: what a reward model makes of texts.
            rewarded: called when all texts of a measurement have their rewards.
            seed: of what is drawn.
            samples: texts of each instance, whose scores are averaged first.
            stops: words at which a text ends.
        """
        self._generator, self._decode, self._reward = generator, decode, reward
        self._rewarded = rewarded
        self._stops = stops
        self._instances, self._tokenizer = list(instances), rouge_tokenizer
        self._scores = {name: METRICS[name].fields for name in metrics}
        self._prompts = [
            Prompt(tokens, one.id, seed, sample)
            for sample in range(samples)
            for one, tokens in zip(self._instances, prompts, strict=True)
        ]
        self._digests = [_digest(tokens) for tokens in prompts]
        self._batches = generator.batches(self._prompts)

    def __call__(self, params: Params, step: int, folder: Path | None = None) -> dict[str, Any]:
        """Generates and scores after `step`; as `evaluator.Evaluator`.

        Returns:
            What `aggregate_records` makes of every score; generated_tokens, their mean; ended, how
            many texts ended in which way; and empty, how many hold no word.

        Raises:
            UserError: logits are not finite.
        """
        head = {"step": step, "params": params_digest(params)}
        path = folder / GENERATIONS if folder else None
        with bar(len(self._prompts), "generation") as progress:

            def measure(batch: Sequence[int]) -> list[Record]:
                records = self._measure(params, batch, step)
                progress.update(len(batch))
                return records

            records = measured(path, head, self._batches, measure, self._names())
        if self._rewarded is not None:
            self._rewarded()
        return self._fields(records)

    def score_kept(self, step: int, folder: Path, metrics: Sequence[str]) -> dict[str, Any] | None:
        """Scores the texts that a run has kept of a step by some of the metrics more.

        Args:
            step, folder: as of the call that generated them.
            metrics: those that they were not scored by, of what was given at first or "reward".

        Returns:
            The fields of these scores; their records of examples are in `records.SCORES`. None
            where the texts of the step are not all there.
        """
        kept = [one for one in read(folder / GENERATIONS) if one["step"] == step]
        of = {(one["id"], one["sample"]): one for one in kept}
        if of.keys() != {(one.id, one.sample) for one in self._prompts}:
            return None
        new = [name for name in metrics if name in self._scores]
        reward = self._reward if "reward" in metrics else None
        names = [field for name in new for field in self._scores[name]]
        names += ["reward"] if reward else []

        def measure(batch: Sequence[int]) -> list[Record]:
            places = [i % len(self._instances) for i in batch]
            before = [of[self._prompts[i].id, self._prompts[i].sample] for i in batch]
            records = [
                {name: one[name] for name in ("id", "task", "category", "sample") if name in one}
                | score(one["text"], self._instances[place].references, new, self._tokenizer)
                for one, place in zip(before, places, strict=True)
            ]
            if reward is not None:
                found = reward(places, [one["text"] for one in before])
                for record, value in zip(records, found, strict=True):
                    record["reward"] = float(value)
            return records

        head = {"step": step, "measure": ",".join(names), "params": kept[0]["params"]}
        found = measured(folder / SCORES, head, self._batches, measure)
        if reward is not None and self._rewarded is not None:
            self._rewarded()
        whole = [of[one["id"], one["sample"]] | one for one in found]
        return aggregate_records(whole, names)

    def _fields(self, records: Sequence[Record]) -> dict[str, Any]:
        ended = Counter(record["ended"] for record in records)
        return {
            **aggregate_records(records, self._names()),
            "generated_tokens": float(np.mean([len(record["tokens"]) for record in records])),
            "ended": dict(sorted(ended.items())),
            "empty": sum(not record["text"].strip() for record in records),
        }

    def _names(self) -> list[str]:
        """The fields of all scores."""
        names = [field for fields in self._scores.values() for field in fields]
        return [*names, "reward"] if self._reward else names

    def _measure(self, params: Params, batch: Sequence[int], step: int) -> list[Record]:
        prompts = [self._prompts[i] for i in batch]
        try:
            written = self._generator.write(params, prompts)
        except UserError as error:
            raise UserError(f"generation at step {step}: {error}") from None
        places = [i % len(self._instances) for i in batch]
        cut = [self._stops.cut(one, self._decode) for one in written]
        texts = [text for text, _ in cut]
        records = [
            self._record(prompt, place, one, text)
            for prompt, place, (text, one) in zip(prompts, places, cut, strict=True)
        ]
        if self._reward is not None:
            for record, reward in zip(records, self._reward(places, texts), strict=True):
                record["reward"] = float(reward)
        return records

    def _record(self, prompt: Prompt, place: int, written: Written, text: str) -> Record:
        instance = self._instances[place]
        scores = score(text, instance.references, self._scores, self._tokenizer)
        return {
            "id": prompt.id,
            "task": instance.task,
            **({"category": instance.category} if instance.category else {}),
            "sample": prompt.sample,
            "prompt_sha256": self._digests[place],
            "text": text,
            "tokens": written.tokens,
            "ended": written.ended,
            "references": list(instance.references),
            **scores,
        }


def _digest(tokens: np.ndarray) -> str:
    """SHA-256 of a prompt's ids, as decimal numbers with commas."""
    return hashlib.sha256(",".join(map(str, tokens.tolist())).encode()).hexdigest()
