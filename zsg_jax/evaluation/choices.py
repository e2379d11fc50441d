"""Rank classification: is the right one of an example's choices the likeliest after its prompt?

A choice is scored as training would see it: the ids that stand behind the prompt where the choice
is the answer, and what closes it, the end of the text. `RULES` are the ways to compare; an exact
tie goes to the first of those that tie, and is counted.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from zsg_jax.data.batches.packing import pack
from zsg_jax.data.batches.steps import sequence_length
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.tokenize.encode import STUDY_FORM, ChoiceTokens, Form, encode_choices
from zsg_jax.data.tokenize.tokenizer import Tokenizer
from zsg_jax.evaluation.aggregate import aggregate_records
from zsg_jax.evaluation.evaluator import not_finite
from zsg_jax.evaluation.likelihood import LogLikelihood, trees
from zsg_jax.evaluation.records import SCORES, Record, measured, params_digest
from zsg_jax.models.placement import Params
from zsg_jax.runtime.errors import check
from zsg_jax.runtime.progress import bar
from zsg_jax.runtime.settings import setting

SUM = "accuracy"
# What each rule compares. The first is T0's (arXiv 2110.08207, section 5).
RULES: dict[str, Callable[["Scored"], np.ndarray]] = {
    SUM: lambda one: one.sums,
    "accuracy_per_token": lambda one: one.sums / one.tokens,
    "accuracy_per_character": lambda one: one.sums / [len(text) for text in one.texts],
    "accuracy_per_byte": lambda one: one.sums / [len(text.encode()) for text in one.texts],
    "accuracy_unconditional": lambda one: one.sums - one.unconditional,
}
# Batches between two writes of records.
BATCHES = 4


class Scored(NamedTuple):
    """The C choices of an example.

    Attributes:
        texts: without outer white space.
        sums: (C,) float64, log-likelihoods in nats after the prompt, of all tokens that are scored.
        unconditional: (C,) float64, the same after an empty prompt.
        tokens: (C,) int64, how many are scored, the end of the text among them.
    """

    texts: Sequence[str]
    sums: np.ndarray
    unconditional: np.ndarray
    tokens: np.ndarray


class ChoicesEvaluator:
    """Measures how often the right choice is the likeliest.

    The unconditional log-likelihood of a choice is that after an empty prompt: what the form writes
    around a single user turn without a word in it, in the study's form bos, "User: ", a new line
    and "Assistant: ".

    Attributes:
        dropped: ids of the examples that are left out, since one of their choices was cut.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        tokenizer: Tokenizer,
        *,
        graphdef: nnx.GraphDef,
        vocab_size: int,
        abstract_params: Any,
        mesh: Mesh,
        batch_size: int,
        max_length: int,
        form: Form = STUDY_FORM,
    ) -> None:
        """Tokenizes every choice of every instance; nothing is compiled yet.

        Args:
            instances: those without choices are left alone.
            graphdef, vocab_size, abstract_params, mesh, batch_size: as `LogLikelihood` takes them.
            max_length, form: as `encode` takes them.

        Raises:
            UserError: no instance has choices, or each has one that is cut; the chat template does
                not fit one, or does not fit an empty prompt.
        """
        having = [number for number, one in enumerate(instances) if one.choices]
        check(bool(having), 'no test row has choices; give rows a field "choices", a list of texts')
        tokenized = encode_choices([instances[n] for n in having], tokenizer, max_length, form)
        kept = [
            (instances[n], texts)
            for n, texts in zip(having, tokenized, strict=True)
            if all(text.whole and text.prompt for text in texts)
        ]
        whole = {one.id for one, _ in kept}
        self.dropped = [instances[n].id for n in having if instances[n].id not in whole]
        check(
            bool(kept),
            f"of each of the {len(having)} test rows with choices, one is cut by "
            f"{limits(max_length, form)}; raise it, or cut prompts by "
            f"{setting('data.truncation', 'head')}",
        )
        self._examples = [one for one, _ in kept]
        words = list(dict.fromkeys(text for one in self._examples for text in one.choices))
        alone = _alone(words, tokenizer, max_length, form)
        texts = [text for _, several in kept for text in several] + alone
        self._tokens = np.array([text.scored.sum() for text in texts])
        ends = np.cumsum([len(one.choices) for one in self._examples])
        self._slots = np.split(np.arange(ends[-1]), ends[:-1])
        self._first_bare = int(ends[-1])
        number = {word: slot for slot, word in enumerate(words, start=self._first_bare)}
        self._bare = [np.array([number[word] for word in one.choices]) for one in self._examples]
        # More branches than this go to another copy of their prompt.
        most = 2 * max(len(text.ids) for text in texts)
        self._trees = [
            trees(several, int(slots[0]), most)
            for (_, several), slots in zip(kept, self._slots, strict=True)
        ]
        length = max(tree.size for several in self._trees for tree in several)
        self._bare_trees = trees(alone, self._first_bare, length)
        every = [tree.size for several in (*self._trees, self._bare_trees) for tree in several]
        length = sequence_length(max(every), max(every) + 15)
        self._likelihood = LogLikelihood(
            graphdef,
            vocab_size,
            abstract_params,
            mesh,
            batch_size=min(batch_size, len(pack(every, length))),
            length=length,
        )
        self._parts = self._divide(BATCHES * self._likelihood.batch_size * length)

    def __call__(self, params: Params, step: int, folder: Path | None = None) -> dict[str, Any]:
        """Scores `params` after `step`.

        Args:
            folder: where the records of examples are kept, in `records.SCORES`: id, task, choices,
                right (its number from 0), chosen (by rule), tied (the rules by which the best two
                tie), loglikelihoods, unconditional and tokens of each choice, and every rule's
                score, 0 or 100. None: nothing is kept.

        Returns:
            As `aggregate_records` gives them of each of `RULES`, from 0 to 100; choice_ties, how
            many examples tie by their sums; choice_examples and choice_dropped, how many were
            scored and left out.

        Raises:
            UserError: a log-likelihood is not finite.
        """
        path = folder / SCORES if folder else None
        head: Record = {"step": step, "measure": "choices"}
        if path:
            head["params"] = params_digest(params)
        unconditional: dict[int, float] = {}
        with bar(len(self._examples), "choices") as progress:

            def measure(part: Sequence[int]) -> list[Record]:
                held = [tree for number in part for tree in self._trees[number]]
                held += [] if unconditional else self._bare_trees
                found = self._likelihood(params, held)
                unconditional.update((at, found[at]) for at in found if at >= self._first_bare)
                records = [self._record(number, found | unconditional, step) for number in part]
                progress.update(len(part))
                return records

            records = measured(path, head, self._parts, measure)
        return {
            **aggregate_records(records, RULES),
            "choice_ties": sum(SUM in one["tied"] for one in records),
            "choice_examples": len(records),
            "choice_dropped": len(self.dropped),
        }

    def _record(self, number: int, found: dict[int, float], step: int) -> Record:
        example, slots = self._examples[number], self._slots[number]
        sums, unconditional = (
            np.array([found[int(at)] for at in own]) for own in (slots, self._bare[number])
        )
        if not np.isfinite([*sums, *unconditional]).all():
            what = f"the log-likelihood of a choice of {example.id}"
            raise not_finite(f"{what} is no finite number at step {step}", step)
        texts = [text.strip() for text in example.choices]
        scored = Scored(texts, sums, unconditional, self._tokens[slots])
        values = {name: rule(scored) for name, rule in RULES.items()}
        chosen = {name: int(np.argmax(value)) for name, value in values.items()}
        return {
            "id": example.id,
            "task": example.task,
            **({"category": example.category} if example.category else {}),
            "choices": list(example.choices),
            "right": example.right,
            "chosen": chosen,
            "tied": [name for name, one in values.items() if (one == one.max()).sum() > 1],
            "loglikelihoods": sums.tolist(),
            "unconditional": unconditional.tolist(),
            "tokens": scored.tokens.tolist(),
            # A choice that is there twice is right wherever it stands.
            **{name: 100.0 * (texts[at] == texts[example.right]) for name, at in chosen.items()},
        }

    def _divide(self, most: int) -> list[list[int]]:
        """Examples that are measured together, the longest first, of about `most` tokens."""
        sizes = np.array([sum(tree.size for tree in several) for several in self._trees])
        parts: list[list[int]] = []
        room = 0
        for number in np.argsort(-sizes, kind="stable").tolist():
            if not parts or room < sizes[number]:
                parts.append([])
                room = most
            parts[-1].append(number)
            room -= int(sizes[number])
        return parts


def limits(max_length: int, form: Form) -> str:
    """What may have cut a choice, as messages name it."""
    length = setting("evaluation.max_length", max_length)
    if form.max_answer is None:
        return length
    return f"{setting('data.max_answer', form.max_answer)} or {length}"


def _alone(
    words: Sequence[str], tokenizer: Tokenizer, max_length: int, form: Form
) -> list[ChoiceTokens]:
    """Choices after an empty prompt."""
    turns = Turn("user", ""), Turn("assistant", "")
    bare = [Instance("empty prompt", "", turns, (), (word,)) for word in words]
    texts = [text for (text,) in encode_choices(bare, tokenizer, max_length, form)]
    for word, text in zip(words, texts, strict=True):
        check(text.whole, f"{word!r} after an empty prompt has more than {max_length} tokens")
    return texts
