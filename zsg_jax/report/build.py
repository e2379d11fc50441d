"""Gathers what a workdir holds and writes its report; needs neither the data nor a device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zsg_jax.arrangement import files
from zsg_jax.durable import read_json, write_json
from zsg_jax.report.page import write_report
from zsg_jax.similarity.trajectory import Trajectory
from zsg_jax.training.loop import FINISHED
from zsg_jax.training.metrics import read_rows
from zsg_jax.workdir import CONFIG, DATA

TRAJECTORY = "similarity.json"


def save_trajectory(folder: Path, points: Trajectory) -> None:
    """Keeps a trajectory beside its arrangement, as lists by field."""
    write_json(
        folder / TRAJECTORY,
        {
            "step": points.step.tolist(),
            "mean_similarity": points.mean_similarity.tolist(),
            "best_similarity": points.best_similarity.tolist(),
        },
    )


def build(workdir: Path, *, title: str, command: str, runs: Sequence[tuple[str, int]]) -> Path:
    """Writes `workdir/report` from the metrics, arrangements and facts kept in the workdir.

    Args:
        workdir: of a finished study.
        title: of the page.
        command: shown on the page.
        runs: (arrangement, seed) in the order to show.

    Returns:
        The path of index.html.
    """
    rows: dict[str, dict[int, list[dict[str, Any]]]] = {}
    trajectories: dict[str, Trajectory] = {}
    turns: dict[str, int] = {}
    facts: dict[str, str] = {"title": title, "command": command}
    data, config = read_json(workdir / DATA), read_json(workdir / CONFIG)
    facts |= _data_facts(data, config)
    seconds = 0.0
    for name, seed in runs:
        folder = workdir / "runs" / f"{name}-seed{seed}"
        rows.setdefault(name, {})[seed] = read_rows(folder)
        seconds += sum(row.get("seconds", 0.0) for row in rows[name][seed])
    for name in rows:
        folder = workdir / "arrangements" / name
        arrangement, _ = files.load(folder)
        turns[name] = len(np.unique(arrangement.turn))
        points = read_json(folder / TRAJECTORY)
        trajectories[name] = Trajectory(*(np.asarray(points[field]) for field in points))
        facts[f"Rows of {name}"] = f"{len(arrangement.order):,} in {turns[name]:,} turns"
    machine = read_json(workdir / "runs" / f"{runs[-1][0]}-seed{runs[-1][1]}" / FINISHED)
    facts |= {label: str(value) for label, value in machine.get("facts", {}).items()}
    facts["Seconds in training steps"] = f"{seconds:,.1f} over {len(runs)} runs"
    return write_report(workdir / "report", rows, trajectories, facts, _notes(data), turns=turns)


def _data_facts(data: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    budget = config["arrangement.budget"]
    return {
        "Training data": f"{config['data.train']}: {data['train_rows']:,} rows of "
        f"{data['train_tasks']:,} tasks",
        "Test data": f"{config['data.test']}: {data['test_rows']:,} rows of "
        f"{data['test_tasks']:,} unseen tasks",
        "Tokenizer": config["tokenizer"],
        "Encoder": config["similarity.encoder"],
        "Similarity": "cosine, float32",
        "Budget": "the whole pool" if budget is None else f"{budget:,} rows",
        "Instances a step": str(config["training.batch_size"]),
    }


def _notes(data: dict[str, Any]) -> list[str]:
    notes = []
    if data["skipped"]:
        first = data["skipped"][0]
        notes.append(
            f"{len(data['skipped'])} bad rows were skipped; the first is {first['path']}:"
            f"{first['line']}: {first['reason']}. All are listed in {DATA}."
        )
    for side, key in (("train", "data.max_length"), ("test", "evaluation.max_length")):
        if data[f"{side}_cut"]:
            notes.append(
                f"{data[f'{side}_cut']:,} of {data[f'{side}_rows']:,} {side} rows were longer than "
                f"{key} and were cut at the tail; {len(data[f'{side}_dropped']):,} of them had no "
                "answer token left and were left out."
            )
    return notes
