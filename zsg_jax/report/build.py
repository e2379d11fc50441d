"""Gathers what a workdir holds and writes its report; needs neither the data nor a device."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from zsg_jax.arrangement.arrangement import load_arrangement
from zsg_jax.arrangement.epochs import ORDERED, read_anew
from zsg_jax.evaluation.metrics import FIELDS
from zsg_jax.evaluation.records import read
from zsg_jax.report.page import PROTOCOL, write_report
from zsg_jax.report.rows import but_alike, read_and_kept, taken, used
from zsg_jax.report.runs import put_together, read_runs
from zsg_jax.report.summary import Record, every_record
from zsg_jax.report.words import listed
from zsg_jax.runtime.files import need_json, read_json
from zsg_jax.runtime.progress import count, percent
from zsg_jax.similarity.trajectory import FILE as TRAJECTORY
from zsg_jax.similarity.trajectory import Trajectory, load_trajectory
from zsg_jax.training import metrics
from zsg_jax.workdir.begun import begun
from zsg_jax.workdir.layout import (
    CONFIG,
    DATA,
    EXPLAINED,
    LEAKAGE,
    SHOWN,
    arrangement_folder,
)

_FACTS = ("rows", "tasks", "cut", "dropped")


def build(workdir: Path, *, title: str, command: str, runs: Sequence[tuple[str, int]]) -> Path:
    """Writes `workdir/report` from the metrics, arrangements and facts kept in the workdir.

    Args:
        workdir: of a finished study.
        title: of the page.
        command: shown on the page where the workdir tells none that it began with.
        runs: (arrangement, seed) in the order to show.

    Returns:
        The path of index.html.
    """
    sides = [f"{side}_{fact}" for side in ("train", "test") for fact in _FACTS]
    lost = "put it back, or start again in another --workdir"
    data = need_json(workdir / DATA, [*sides, "skipped", "shared_tasks", "split"], lost)
    config = need_json(workdir / CONFIG, (), lost)
    found = read_runs(workdir, runs)
    records, scored = found.records, found.scored
    facts: dict[str, str] = {}
    trajectories: dict[str, Trajectory] = {}
    turns: dict[str, int] = {}
    rules = config.get("training.epochs", [ORDERED])
    anew = read_anew(rules).steps
    for name, by_seed in records.items():
        folder = arrangement_folder(workdir, name)
        arrangement, made = load_arrangement(folder)
        turns[name] = int((arrangement.turn_sizes > 0).sum())
        trajectories[name] = load_trajectory(folder / TRAJECTORY)
        trained = max(one["step"] for seed in by_seed.values() for one in seed)
        followed = min((trained, *anew))
        consumed = min(len(arrangement), followed * config["training.batch_size"])
        facts = facts or read_and_kept(data, config, made)
        facts |= used(name, len(arrangement), turns[name], consumed, trained, anew)
        if "w_avg" in made:
            ends = sorted({np.min(made["w_avg"]), np.max(made["w_avg"])})
            average = " to ".join(f"{weight:.4g}" for weight in ends)  # a task may have its own
            weights = f"{made['w_min']:.4g} (minimum), {average} (average)"
            facts[f"Weights of distances in {name}"] = weights
    facts |= _settings(config)
    facts |= put_together({name: list(by_seed.values()) for name, by_seed in found.facts.items()})
    if rules != [ORDERED]:
        facts["Epochs"] = ", then ".join(rules)
    facts |= _speed(every_record(records), len(runs))
    command, origin = begun(workdir, command)
    facts |= origin
    pages = {name: arrangement_folder(workdir, name) / EXPLAINED for name in records}
    return write_report(
        workdir / "report",
        records,
        trajectories,
        facts,
        [*not_kept(records), *taken(rules), *_notes(data), leakage(workdir)],
        title=title,
        command=command,
        turns=turns,
        protocol=protocol(data),
        window=config.get("report.window"),
        test_tasks=data.get("test_id_tasks"),
        test_sets=test_sets(data),
        test_rows=read(workdir / SHOWN),
        scored=scored,
        explained={
            name: f"../{quote(page.relative_to(workdir).as_posix())}"
            for name, page in pages.items()
            if page.exists()
        },
    )


def _settings(config: dict[str, Any]) -> dict[str, str]:
    budget = config["arrangement.budget"]
    return {
        "Budget": "none: all rows that are kept" if budget is None else f"{budget:,} rows",
        "Tokenizer": config["tokenizer"],
        "Encoder": config["similarity.encoder"],
        "Embedded": f"{config.get('similarity.text', 'both')} of each row",
        "Distance": {"cosine": "-cos", "euclidean": "Euclidean, of unit rows"}[
            config["similarity.distance"]
        ],
        "Instances a step": str(config["training.batch_size"]),
    }


def _speed(records: Sequence[Record], runs: int) -> dict[str, str]:
    seconds = sum(one.get("seconds", 0.0) for one in records)
    waited = metrics.data_wait(records)
    facts = {
        "Seconds in training steps": f"{seconds:,.1f} over {count(runs, 'run')}",
        "Waiting for data": f"{waited:.2%} of the seconds in training steps",
    }
    tokens, mfu = (metrics.over_time(records, name) for name in ("tokens_per_second", "mfu"))
    if tokens is not None:
        facts["Tokens a second in training steps"] = f"{tokens:,.0f}, prompts and answers"
    if mfu is not None:
        facts["Model FLOPs utilization"] = f"{percent(mfu)} of the devices' peak"
    return facts


def test_sets(data: Mapping[str, Any]) -> dict[str, str]:
    """Id → target set of every scored example of a study's data.json; {} where there are none."""
    sets = data.get("test_id_sets", [])
    return dict(zip(data["test_ids"] if sets else [], sets, strict=True))


def protocol(data: Mapping[str, Any]) -> str:
    """What scores of a study can and cannot say, by its data.json."""
    if not data["split"]:
        return PROTOCOL
    return (
        f"Data were arranged toward {data['aimed_rows']:,} test rows, and the loss was measured on "
        f"{data['scored_rows']:,} others of the same tasks, which steered nothing"
        f"{but_alike(data)}. Similarities and distances are to the former."
    )


def leakage(workdir: Path) -> str:
    """What was found of test rows among the training rows of a workdir."""
    found = read_json(workdir / LEAKAGE, ["sentence"])
    return "leakage: not looked for." if found is None else f"{found['sentence']}."


def not_kept(runs: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """Lines on what was asked for after steps whose parameters were not kept.

    Args:
        runs: arrangement → seed → records; where some seeds alone lack it, they are named.
    """
    notes = []
    for name, by_seed in runs.items():
        seeds: dict[tuple[str, int], dict[int, None]] = {}  # metric and step → those that lack it
        for seed, one in ((seed, one) for seed, records in by_seed.items() for one in records):
            for metric in one.get(metrics.NOT_KEPT, ()):
                if FIELDS[metric] not in one:  # else the step was taken again since
                    seeds.setdefault((metric, one["step"]), {})[seed] = None
        steps: dict[tuple[str, str], list[int]] = {}
        for (metric, step), lacking in sorted(seeds.items()):
            of = "" if len(lacking) == len(by_seed) else f", seed {listed([*map(str, lacking)])}"
            steps.setdefault((metric, of), []).append(step)
        notes += [
            f"{name}{of}: {metric} was asked for after the runs, and could not be measured at "
            f"step {', '.join(map(str, lost))}, of which no checkpoint was kept."
            for (metric, of), lost in steps.items()
        ]
    return notes


def _notes(data: dict[str, Any]) -> list[str]:
    notes = []
    if data["skipped"]:
        first = data["skipped"][0]
        notes.append(
            f"{len(data['skipped'])} bad rows were skipped; the first is {first['path']}:"
            f"{first['line']}: {first['reason']}. All are listed in {DATA}."
        )
    for side, key in (("train", "data.max_length"), ("test", "evaluation.max_length")):
        refused = data.get(f"{side}_refused", [])
        if refused:
            notes.append(
                f"{len(refused):,} of {data[f'{side}_rows']:,} {side} rows do not fit the chat "
                f"template and were left out; the first is {refused[0]['id']}: "
                f"{refused[0]['reason']}. All are listed in {DATA}."
            )
        if data[f"{side}_cut"]:
            empty = len(data[f"{side}_dropped"]) - len(refused)
            notes.append(
                f"{data[f'{side}_cut']:,} of {data[f'{side}_rows']:,} {side} rows were longer than "
                f"{key} or an answer's limit and were cut; {empty:,} of them had no answer token "
                "left and were left out."
            )
    return notes
