"""The instances of a study with their tokens, and an account of what was left out."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.data.dataset import Dataset, from_list
from zsg_jax.data.instance import Instance
from zsg_jax.data.schemas.read import NO_TASK, each_once, way_out
from zsg_jax.data.splits import report_split
from zsg_jax.data.tokenize import encode as prompts
from zsg_jax.data.tokenize import store as tokens
from zsg_jax.data.tokenize import tokenizer as tokenizers
from zsg_jax.data.tokenize.examples import StoredExamples, TokenizedExamples
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import file_digest, write_json
from zsg_jax.runtime.processes import once
from zsg_jax.runtime.progress import bar, count, say
from zsg_jax.runtime.settings import setting
from zsg_jax.runtime.shards import damage

# Stands beside a tokenizer that was trained here.
TRAINED = "trained.json"


class Pool(NamedTuple):
    """Both sides of a study.

    Attributes:
        train, test: examples; test examples without an answer token are already gone.
        train_examples, test_examples: their tokens, one by one.
        usable: (n,) int64 training examples that have an answer token left, ascending.
        answered: (T,) int64, the indices that `test` has among all test examples read, ascending.
        aimed, scored: int64 indices into `test`, ascending: to arrange toward, and to measure the
            loss on; all of them are both, unless a part was asked for that only scores.
        facts: counts, ids of dropped examples and digests, JSON-ready.
    """

    train: Dataset
    test: Dataset
    train_examples: TokenizedExamples
    test_examples: TokenizedExamples
    usable: np.ndarray
    answered: np.ndarray
    aimed: np.ndarray
    scored: np.ndarray
    facts: dict[str, Any]

    @property
    def measured_on(self) -> "TestSet":
        """The test instances that are scored."""
        return TestSet(
            self.test.select(self.scored),
            self.test_examples.select(self.scored),
            len(self.facts["test_dropped"]),
        )


class TestSet(NamedTuple):
    """What is measured on.

    Attributes:
        instances: N of them.
        examples: the tokens of each, with at least one answer token.
        dropped: how many were left out before, having no answer token.
    """

    instances: Dataset
    examples: TokenizedExamples
    dropped: int


def keep_trained(folder: Path, train: Sequence[Instance], size: int) -> None:
    """Trains a byte-level BPE of `size` entries on `train`, unless `folder` holds that one."""
    made_from = {"train_digest": from_list(train).digest, "size": size}
    record = folder / TRAINED
    try:
        known = json.loads(record.read_bytes())
    except (OSError, ValueError):
        known = None
    if isinstance(known, dict) and known.items() >= made_from.items():
        problem = _damage_of(folder, known)
        if problem is None:
            return
        say(f"{folder}/{problem}; it is made again")
    say(f"tokenizer: training a byte-level BPE on {len(train):,} rows")
    record.unlink(missing_ok=True)
    tokenizers.train_bpe((instance.text for instance in train), size).save(folder)
    digests = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    write_json(record, made_from | {"files": digests})


def _damage_of(folder: Path, record: dict[str, Any]) -> str | None:
    digests = record.get("files")
    if isinstance(digests, dict):
        return damage(digests, lambda name: file_digest(folder / name))
    # Those of earlier versions told none.
    return None if (folder / "tokenizer.json").exists() else "tokenizer.json is missing"


def choose_tokenizer(name: str, trained: Path) -> tokenizers.Tokenizer:
    """The tokenizer for "bytes", for "train" (kept in the folder `trained`), or for a folder."""
    if name == "bytes":
        return tokenizers.ByteTokenizer()
    return tokenizers.from_folder(trained if name == "train" else name)


def make_pool(
    train: Sequence[Instance],
    test: Sequence[Instance],
    tokenizer: tokenizers.Tokenizer,
    *,
    train_length: int,
    test_length: int,
    report_fraction: float = 0.0,
    seed: int = 0,
    form: prompts.Form = prompts.STUDY_FORM,
    bad_rows: str = "refuse",
    on_progress: Callable[[int], object] = lambda examples: None,
    folder: Path | None = None,
    cache: str | Path | None = None,
) -> Pool:
    """Tokenizes both sides and sets aside examples that the cut leaves without an answer token.

    Args:
        train, test: as `sources.load` gives them, or lists.
        tokenizer: for both sides.
        train_length, test_length: tokens at most of an example.
        report_fraction, seed: as `report_split` takes them; 0 arranges toward every test example
            and scores on it too.
        form: how examples are put into tokens and cut.
        bad_rows: what is done with an example that the chat template does not fit.
        on_progress: called with how many more examples are tokenized.
        folder: where the first of several processes keeps the tokens; None: in memory.
        cache: a folder from which studies have tokens that were made before.

    Raises:
        UserError: if a side has no example left, or one is refused.
    """
    sides = {"train": from_list(train), "test": from_list(test)}
    lengths = {"train": train_length, "test": test_length}
    examples: dict[str, TokenizedExamples] = {}
    counts: dict[str, dict[str, Any]] = {}
    for side, dataset in sides.items():
        own = folder and folder / side
        examples[side] = _tokenize(dataset, tokenizer, lengths[side], form, own, on_progress, cache)
    for side, dataset in sides.items():
        counts[side] = _report(side, dataset, examples[side], form, bad_rows)
    usable, answered = (np.flatnonzero(examples[side].answer_tokens) for side in sides)
    chosen = sides["test"].select(answered)
    aimed, scored = _aimed_and_scored(chosen, report_fraction, seed)
    told = chosen.select(scored)
    facts = {f"{side}_{key}": fact for side in sides for key, fact in counts[side].items()} | {
        "skipped": [
            record._asdict() for record in each_once(*(one.skipped for one in sides.values()))
        ],
        "tokenizer_digest": tokenizer.fingerprint,
        "template_digest": form.fingerprint,
        "shared_tasks": sorted(_named_tasks(sides["train"]) & _named_tasks(sides["test"])),
        "test_ids": [chosen.ids[index] for index in scored],
        "test_id_tasks": [str(task) for task in told.task_names],
        **_sets(told),
        "aimed_rows": len(aimed),
        "scored_rows": len(scored),
        "scored_alike": _alike(chosen, aimed, scored) if report_fraction else 0,
        "scored_copies": len(scored) - len(set(told.texts)),
        "split": bool(report_fraction),
    }
    shown = examples["test"].select(answered)
    return Pool(
        sides["train"], chosen, examples["train"], shown, usable, answered, aimed, scored, facts
    )


def _sets(scored: Dataset) -> dict[str, Any]:
    """The target set of every scored example, where there are sets."""
    if scored.set_index is None:
        return {}
    return {"test_id_sets": [scored.sets[number].name for number in scored.set_index]}


def make_tests(
    dataset: Dataset,
    tokenizer: tokenizers.Tokenizer,
    length: int,
    form: prompts.Form,
    bad_rows: str = "refuse",
) -> TestSet:
    """The test side alone, in memory; as `make_pool`."""
    with bar(len(dataset), "tokens") as progress:
        examples = _tokenize(dataset, tokenizer, length, form, None, progress.update)
    counts = _report("test", dataset, examples, form, bad_rows)
    answered = np.flatnonzero(examples.answer_tokens)
    return TestSet(dataset.select(answered), examples.select(answered), len(counts["dropped"]))


def _aimed_and_scored(test: Dataset, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if not fraction:
        return np.arange(len(test)), np.arange(len(test))
    task_index = np.unique(test.task_names, return_inverse=True)[1]
    kept = report_split(task_index, fraction, seed, test.conversation, test.set_index)
    return np.flatnonzero(~kept), np.flatnonzero(kept)


def _alike(test: Dataset, aimed: np.ndarray, scored: np.ndarray) -> int:
    """How many examples to score say the same as one to arrange toward."""
    texts = test.texts
    there = {texts[index] for index in aimed.tolist()}
    return sum(texts[index] in there for index in scored.tolist())


def _named_tasks(dataset: Dataset) -> set[str]:
    return set(dataset.task_names) - {NO_TASK}


def _tokenize(
    dataset: Dataset,
    tokenizer: tokenizers.Tokenizer,
    length: int,
    form: prompts.Form,
    folder: Path | None,
    on_progress: Callable[[int], object],
    cache: str | Path | None = None,
) -> TokenizedExamples:
    if folder is None:
        return prompts.encode(dataset, tokenizer, length, on_progress, form)
    once(
        f"tokens {folder.name}",
        lambda: tokens.store(dataset, tokenizer, length, folder, on_progress, form, cache=cache),
    )
    return StoredExamples(folder)


def _report(
    side: str, dataset: Dataset, examples: TokenizedExamples, form: prompts.Form, bad_rows: str
) -> dict[str, Any]:
    """Tells what was refused, changed and dropped, and counts it as `_count` does."""
    _report_refused(side, dataset, examples, form, bad_rows)
    counts = _count(dataset, examples)
    _report_changed(side, counts)
    _report_dropped(side, counts, form)
    return counts


def _report_refused(
    side: str,
    dataset: Dataset,
    examples: TokenizedExamples,
    form: prompts.Form,
    bad_rows: str,
) -> None:
    if not examples.refused:
        return
    name = form.template.name if form.template else "the study's form"
    index, reason = next(iter(examples.refused.items()))
    unfit = f"{name} does not fit {side} row {dataset.ids[index]!r}: {reason}"
    if len(examples.refused) == len(dataset):
        raise UserError(
            f"{unfit}; nor does it fit any other: give another {setting('data.template')}"
        )
    if bad_rows == "refuse":
        raise UserError(f"{unfit}; {way_out()}")
    say(f"skipped {len(examples.refused):,} of {len(dataset):,} {side} rows, as {unfit}")


def _report_changed(side: str, counts: dict[str, Any]) -> None:
    of = f"of {counts['rows']:,} {side} rows"
    if counts["stripped"]:
        say(
            f"white space before the first word, which the study's form leaves out: {of}, "
            f"{counts['stripped']:,} in {count(counts['stripped_turns'], 'turn')}"
        )
    parts = [
        f"{counts[f'{part}_cut']:,} lost {counts[f'{part}_cut_tokens']:,} tokens of {what}"
        for part, what in (("prompt", "the prompt"), ("answer", "an answer"))
        if counts[f"{part}_cut"]
    ]
    if parts:
        say(f"cut to fit, {of}: {'; '.join(parts)}")


def _report_dropped(side: str, counts: dict[str, Any], form: prompts.Form) -> None:
    key = {"train": "data.max_length", "test": "evaluation.max_length"}[side]
    more = f"raise {setting(key)}"
    if form.truncation == "tail":
        more += f", or pass {setting('data.truncation', 'head')}, which cuts prompts instead"
    if len(counts["dropped"]) == counts["rows"]:
        raise UserError(f"no {side} row has an answer token left; {more}")
    dropped = len(counts["dropped"]) - len(counts["refused"])
    if dropped:
        say(
            f"{dropped:,} of {counts['rows']:,} {side} rows have no answer token left within "
            f"the length and are left out; to keep more, {more}"
        )


def _count(dataset: Dataset, examples: TokenizedExamples) -> dict[str, Any]:
    """What of a side is there, cut, refused and dropped, JSON-ready; `cut` counts examples."""
    prompt_cut = examples.cut - examples.answer_cut
    return {
        "rows": len(dataset),
        "tasks": len(set(dataset.task_names)),
        "stripped": int((examples.stripped > 0).sum()),
        "stripped_turns": int(examples.stripped.sum()),
        "cut": int((examples.cut > 0).sum()),
        "prompt_cut": int((prompt_cut > 0).sum()),
        "prompt_cut_tokens": int(prompt_cut.sum()),
        "answer_cut": int((examples.answer_cut > 0).sum()),
        "answer_cut_tokens": int(examples.answer_cut.sum()),
        "refused": [
            {"id": dataset.ids[index], "reason": reason}
            for index, reason in examples.refused.items()
        ],
        "dropped": [dataset.ids[index] for index in np.flatnonzero(examples.answer_tokens == 0)],
        "digest": dataset.digest,
    }
