"""The finished runs of a workdir: what they hold, and that they are the study's own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from zsg_jax.arrangement.epochs import ORDERED
from zsg_jax.arrangement.written import check_followed
from zsg_jax.evaluation.records import GENERATIONS, SCORES, read
from zsg_jax.runtime.errors import UserError
from zsg_jax.runtime.progress import count
from zsg_jax.training import metrics
from zsg_jax.training.finished import ended
from zsg_jax.workdir import claims
from zsg_jax.workdir.layout import arrangement_folder, run_folder

_NOT_READ = {"params", "prompt_sha256", "tokens", "choices", "loglikelihoods", "unconditional"}
_TEXTS = {"text", "references"}  # read at the last step alone


class Read(NamedTuple):
    """What the runs of a workdir hold: arrangement → seed → records, or what else is said.

    Attributes:
        records: of metrics.jsonl.
        scored: of generations.jsonl and scores.jsonl.
        facts: label → text: what the model was and where it ran; `put_together` joins them.
    """

    records: dict[str, dict[int, list[dict[str, Any]]]]
    scored: dict[str, dict[int, list[dict[str, Any]]]]
    facts: dict[str, dict[int, dict[str, str]]]


def read_runs(workdir: Path, runs: Sequence[tuple[str, int]]) -> Read:
    """Reads finished runs, each an arrangement and a seed.

    Raises:
        UserError: one of them has not finished, its records are not those it finished with, or it
            was trained in another study or another order.
    """
    read = Read({}, {}, {})
    for (name, seed), facts in zip(runs, ended_here(workdir, runs), strict=True):
        folder = run_folder(workdir, name, seed)
        if facts is None:
            raise UserError(f"{folder}: has not finished; run the study again to go on with it")
        read.records.setdefault(name, {})[seed] = metrics.read_run(folder)
        read.scored.setdefault(name, {})[seed] = _scored(folder)
        told = {label: str(value) for label, value in facts["facts"].items()}
        read.facts.setdefault(name, {})[seed] = told
    return read


def put_together(facts: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, str]:
    """What runs say of themselves, put together, so that none speaks for the others.

    Args:
        facts: name → label → text of each run of that name.

    Returns:
        Label → text; where runs differ, each text with the names whose runs say so, or with their
        number where runs of a name differ.
    """
    every = [(name, one) for name, runs in facts.items() for one in runs]
    found: dict[str, dict[str, list[str]]] = {}  # label → text → the name of each run
    for name, one in every:
        for label, text in one.items():
            found.setdefault(label, {}).setdefault(text, []).append(name)
    words = {}
    for label, by_text in found.items():
        if len(by_text) == 1 and sum(map(len, by_text.values())) == len(every):
            (words[label],) = by_text
            continue
        whole = all(
            names.count(name) == len(facts[name]) for names in by_text.values() for name in names
        )
        words[label] = "; ".join(
            f"{text} ({', '.join(dict.fromkeys(names)) if whole else count(len(names), 'run')})"
            for text, names in by_text.items()
        )
    return words


def ended_here(workdir: Path, runs: Iterable[tuple[str, int]]) -> Iterator[dict[str, Any] | None]:
    """What each run ended with, or None; all, the unfinished too, are of what the study is by now.

    Raises:
        UserError: one was trained or measured by another config, on other inputs or in another
            order, or its records are not those it finished with.
    """
    belongs = claims.of_runs(workdir)
    config = belongs.config
    rules, shuffled = config.get("training.epochs", [ORDERED]), config["arrangement.seed"]
    for name, seed in runs:
        folder = run_folder(workdir, name, seed)
        if facts := ended(folder, belongs):
            check_followed(folder, facts, arrangement_folder(workdir, name), rules, shuffled)
        yield facts


def _scored(folder: Path) -> list[dict[str, Any]]:
    """The records of examples of a run, without what the report does not read."""
    records = [one for name in (GENERATIONS, SCORES) for one in read(folder / name)]
    last = max((one["step"] for one in records if "text" in one), default=0)

    def read_of(one: dict[str, Any]) -> set[str]:
        return one.keys() - _NOT_READ - (_TEXTS if one["step"] < last else set())

    return [{key: one[key] for key in read_of(one)} for one in records]
