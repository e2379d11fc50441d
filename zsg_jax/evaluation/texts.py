"""Texts that a model writes for the test instances, kept and scored one by one."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.evaluation.generation import Generator, Prompt
from zsg_jax.evaluation.records import GENERATIONS, Record, measured, params_digest
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.progress import bar

# (text, references) -> scores by name.
Score = Callable[[str, Sequence[str]], Mapping[str, float]]
# (places of instances, a text for each) -> (n,) rewards.
Reward = Callable[[Sequence[int], Sequence[str]], np.ndarray]
# (N,) values of instances by name -> fields of a record.
Aggregate = Callable[[Mapping[str, np.ndarray]], dict[str, Any]]


class TextEvaluator:
    """Generates texts and scores them; the fields of its records are means of what is kept.

    The texts follow from the parameters, the seed and the ids, as `Generator` says.
    """

    def __init__(
        self,
        generator: Generator,
        prompts: Sequence[np.ndarray],
        ids: Sequence[str],
        tasks: Sequence[str],
        references: Sequence[Sequence[str]],
        *,
        decode: Callable[[Sequence[int]], str],
        score: Score,
        aggregate: Aggregate,
        reward: Reward | None = None,
        seed: int = 0,
        samples: int = 1,
    ) -> None:
        """Takes what is asked of every set of parameters.

        Args:
            prompts: (L,) int32 tokens of each instance, as `encode.encode_prompts` gives them.
            ids, tasks, references: of each instance.
            decode: tokens to text.
            score, aggregate, reward: as above; what `score` and `reward` give is kept as well.
            seed: of what is drawn.
            samples: texts of each instance, whose scores are averaged first.
        """
        self._generator, self._decode, self._score = generator, decode, score
        self._aggregate, self._reward = aggregate, reward
        self._tasks, self._references = tasks, references
        self._prompts = [
            Prompt(tokens, one, seed, sample)
            for sample in range(samples)
            for one, tokens in zip(ids, prompts, strict=True)
        ]
        self._digests = [_digest(tokens) for tokens in prompts]
        self._batches = generator.batches(self._prompts)

    def __call__(self, params: Params, step: int, folder: Path | None = None) -> dict[str, Any]:
        """Generates and scores after `step`; as `evaluator.Evaluator`.

        Returns:
            What `aggregate` makes of every score; generated_tokens, their mean; ended, how many
            texts ended in which way; and empty, how many hold no word.

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

            records = measured(path, head, self._batches, measure)
        return self.fields(records)

    def fields(self, records: Sequence[Record]) -> dict[str, Any]:
        """What the records of all texts come to."""
        place = {prompt.id: i for i, prompt in enumerate(self._prompts[: len(self._tasks)])}
        names = [key for key in records[0] if key not in _KEPT]
        sums = {name: np.zeros(len(self._tasks)) for name in names}
        for record in records:
            for name in names:
                sums[name][place[record["id"]]] += record[name]
        samples = len(records) // len(self._tasks)
        ended = Counter(record["ended"] for record in records)
        return {
            **self._aggregate({name: total / samples for name, total in sums.items()}),
            "generated_tokens": float(np.mean([len(record["tokens"]) for record in records])),
            "ended": dict(sorted(ended.items())),
            "empty": sum(not record["text"].strip() for record in records),
        }

    def _measure(self, params: Params, batch: Sequence[int], step: int) -> list[Record]:
        prompts = [self._prompts[i] for i in batch]
        try:
            written = self._generator.write(params, prompts)
        except UserError as error:
            raise UserError(f"generation at step {step}: {error}") from None
        places = [i % len(self._tasks) for i in batch]
        texts = [self._decode(one.tokens) for one in written]
        records = []
        for prompt, place, one, text in zip(prompts, places, written, texts, strict=True):
            references = self._references[place]
            record = {
                "id": prompt.id,
                "task": self._tasks[place],
                "sample": prompt.sample,
                "prompt_sha256": self._digests[place],
                "text": text,
                "tokens": one.tokens,
                "ended": one.ended,
                "references": list(references),
            }
            records.append({**record, **self._score(text, references)})
        if self._reward is not None:
            for record, reward in zip(records, self._reward(places, texts), strict=True):
                record["reward"] = float(reward)
        return records


# What a record holds besides scores.
_KEPT = {
    *("step", "params", "id", "task", "sample", "prompt_sha256"),
    *("text", "tokens", "ended", "references"),
}


def _digest(tokens: np.ndarray) -> str:
    """SHA-256 of a prompt's ids, as decimal numbers with commas."""
    return hashlib.sha256(",".join(map(str, tokens.tolist())).encode()).hexdigest()
