"""The instances of a study with their tokens, and an account of what was left out."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.data.instance import Instance
from zsg_jax.data.instances import Instances, of_list
from zsg_jax.data.schemas.read import ADVICE, NO_TASK, BadRow
from zsg_jax.data.splits import report_split
from zsg_jax.data.tokenize import encode as prompts
from zsg_jax.data.tokenize import store as tokens
from zsg_jax.data.tokenize import tokenizer as tokenizers
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.files import write_json
from zsg_jax.runtime.processes import once
from zsg_jax.runtime.progress import say

# Stands beside a tokenizer that was trained here.
TRAINED = "trained.json"


class Pool(NamedTuple):
    """Both sides of a study.

    Attributes:
        train, test: instances, read as they are asked for; test rows without an answer token are
            already gone.
        train_examples, test_examples: their tokens, row for row.
        usable: (n,) int64 training rows that have an answer token left, ascending.
        answered: (T,) int64, the numbers that `test` has among all test rows read, ascending.
        aimed, scored: int64 rows of `test`, ascending: to arrange toward, and to measure the loss
            on; all of them are both, unless a part was asked for that only scores.
        facts: counts, ids of dropped rows and digests, JSON-ready.
    """

    train: Instances
    test: Instances
    train_examples: prompts.TokenRows
    test_examples: prompts.TokenRows
    usable: np.ndarray
    answered: np.ndarray
    aimed: np.ndarray
    scored: np.ndarray
    facts: dict[str, Any]


def keep_trained(folder: Path, train: Sequence[Instance], size: int) -> None:
    """Trains a byte-level BPE of `size` entries on `train`, unless `folder` holds that one."""
    made_from = {"train_digest": of_list(train).digest, "size": size}
    told = folder / TRAINED
    try:
        known = json.loads(told.read_bytes())
    except (OSError, ValueError):
        known = None
    if known == made_from and (folder / "tokenizer.json").exists():
        return
    say(f"tokenizer: training a byte-level BPE on {len(train):,} rows")
    told.unlink(missing_ok=True)
    tokenizers.train_bpe((instance.text for instance in train), size).save(folder)
    write_json(told, made_from)


def choose_tokenizer(name: str, trained: Path) -> tokenizers.Tokenizer:
    """The tokenizer for "bytes", for "train" (kept in the folder `trained`), or for a folder."""
    if name == "bytes":
        return tokenizers.ByteTokenizer()
    return tokenizers.from_folder(trained if name == "train" else name)


def make_pool(
    train: Sequence[Instance],
    test: Sequence[Instance],
    skipped: list[BadRow],
    tokenizer: tokenizers.Tokenizer,
    *,
    train_length: int,
    test_length: int,
    report_fraction: float = 0.0,
    seed: int = 0,
    form: prompts.Form = prompts.STUDY_FORM,
    bad_rows: str = "refuse",
    on_progress: Callable[[int], object] = lambda rows: None,
    folder: Path | None = None,
) -> Pool:
    """Tokenizes both sides and sets aside rows that the cut leaves without an answer token.

    Args:
        train, test, skipped: as `sources.load` gives them, or lists.
        tokenizer: for both sides.
        train_length, test_length: tokens at most of a row.
        report_fraction, seed: as `report_split` takes them; 0 arranges toward every test row and
            scores on it too.
        form: how rows are put into tokens and cut.
        bad_rows: "refuse" raises at a row that the chat template does not fit, "skip" drops it.
        on_progress: told how many rows more are tokenized.
        folder: where the tokens are kept, by the first of several processes, and looked for before
            any are made; None: in memory.

    Raises:
        UserError: if a side has no row left, or a row is refused.
    """
    train, test = of_list(train), of_list(test)

    def of_side(side: str, instances: Instances, length: int) -> prompts.TokenRows:
        if folder is None:
            return prompts.encode(instances, tokenizer, length, on_progress, form)
        own = folder / side
        once(
            f"tokens {side}",
            lambda: tokens.store(instances, tokenizer, length, own, on_progress, form),
        )
        return tokens.StoredExamples(own)

    train_examples = of_side("train", train, train_length)
    test_examples = of_side("test", test, test_length)
    for side, instances, examples in (
        ("train", train, train_examples),
        ("test", test, test_examples),
    ):
        _tell_refused(side, instances, examples, form, bad_rows)
        _tell_cut(side, examples)
    usable = np.flatnonzero(train_examples.answer_tokens)
    answered = np.flatnonzero(test_examples.answer_tokens)
    facts: dict[str, Any] = {
        **_facts("train", train, train_examples, usable),
        **_facts("test", test, test_examples, answered),
        "skipped": [row._asdict() for row in skipped],
        "tokenizer_digest": tokenizer.fingerprint,
        "template_digest": form.fingerprint,
        "shared_tasks": sorted(set(train.task_names) & set(test.task_names) - {NO_TASK}),
    }
    spare = (
        ", or pass --config.data.truncation=head, which cuts prompts instead"
        if form.truncation == "tail"
        else ""
    )
    for side, kept, key in (
        ("train", usable, "data.max_length"),
        ("test", answered, "evaluation.max_length"),
    ):
        dropped = len(facts[f"{side}_dropped"]) - len(facts[f"{side}_refused"])
        if not len(kept):
            raise UserError(f"no {side} row has an answer token left; raise --config.{key}{spare}")
        if dropped:
            say(
                f"{dropped:,} of {facts[f'{side}_rows']:,} {side} rows have no answer token left "
                f"within {key} and are left out; to keep more, raise --config.{key}{spare}"
            )
    test = test.select(answered)
    aimed = scored = np.arange(len(test))
    if report_fraction:
        tasks = np.unique(test.task_names, return_inverse=True)[1]
        kept = report_split(tasks, report_fraction, seed)
        aimed, scored = np.flatnonzero(~kept), np.flatnonzero(kept)
    facts |= {
        "test_ids": [test.ids[row] for row in scored],
        "aimed_rows": len(aimed),
        "scored_rows": len(scored),
        "split": bool(report_fraction),
    }
    return Pool(
        train,
        test,
        train_examples,
        test_examples.select(answered),
        usable,
        answered,
        aimed,
        scored,
        facts,
    )


def _tell_refused(
    side: str,
    instances: Instances,
    examples: prompts.TokenRows,
    form: prompts.Form,
    bad_rows: str,
) -> None:
    if not examples.refused or form.template is None:
        return
    row, reason = next(iter(examples.refused.items()))
    told = f"{form.template.name} does not fit {side} row {instances.ids[row]!r}: {reason}"
    if len(examples.refused) == len(instances):
        raise UserError(f"{told}; nor does it fit any other: give another data.template")
    if bad_rows == "refuse":
        raise UserError(f"{told}; {ADVICE}")
    say(f"skipped {len(examples.refused):,} of {len(instances):,} {side} rows, as {told}")


def _tell_cut(side: str, examples: prompts.TokenRows) -> None:
    counts = _cut(side, examples)
    parts = [
        f"{counts[f'{side}_{part}_cut']:,} lost {counts[f'{side}_{part}_cut_tokens']:,} tokens of "
        f"{what}"
        for part, what in (("prompt", "the prompt"), ("answer", "an answer"))
        if counts[f"{side}_{part}_cut"]
    ]
    if parts:
        say(f"cut to fit, of {len(examples):,} {side} rows: {'; '.join(parts)}")


def _cut(side: str, examples: prompts.TokenRows) -> dict[str, int]:
    """Rows and tokens that the limits took, by what they were taken from."""
    facts = {f"{side}_cut": int((examples.cut > 0).sum())}
    taken = {"prompt": examples.cut - examples.answer_cut, "answer": examples.answer_cut}
    for part, counts in taken.items():
        facts[f"{side}_{part}_cut"] = int((counts > 0).sum())
        facts[f"{side}_{part}_cut_tokens"] = int(counts.sum())
    return facts


def _facts(
    side: str, instances: Instances, examples: prompts.TokenRows, kept: np.ndarray
) -> dict[str, Any]:
    dropped = np.setdiff1d(np.arange(len(instances)), kept)
    return {
        f"{side}_rows": len(instances),
        f"{side}_tasks": len(set(instances.task_names)),
        **_cut(side, examples),
        f"{side}_refused": [
            {"id": instances.ids[row], "reason": reason} for row, reason in examples.refused.items()
        ],
        f"{side}_dropped": [instances.ids[row] for row in dropped],
        f"{side}_digest": instances.digest,
    }
