"""Writes a study's report: summary.json, the figures, and one page that shows them offline."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsg_jax.report import figures, similarity
from zsg_jax.report.labels import shorten
from zsg_jax.report.panels import looks, to_svg
from zsg_jax.report.summary import KINDS, Runs, json_ready, summarize
from zsg_jax.report.templates import render
from zsg_jax.runtime.files import write_bytes
from zsg_jax.similarity.trajectory import Trajectory

TITLE = "Test loss by arrangement of the training data"
PROTOCOL = (
    "The test rows that steered the arrangement are also the ones scored: the study's protocol. "
    "The numbers compare arrangements; they do not estimate the loss on further unseen rows."
)


def write_report(
    folder: Path,
    runs: Runs,
    trajectories: Mapping[str, Trajectory],
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
    turns: Mapping[str, int] | None = None,
    protocol: str = PROTOCOL,
) -> Path:
    """Writes the report of `runs` into `folder` and returns the path of its index.html.

    Args:
      folder: made if absent; holds index.html, summary.json and the figures afterwards. Every
        file appears whole or not at all, the page last. A figure of an earlier report for which
        there is no data now is removed.
      runs: arrangement → seed → rows of metrics.jsonl. Their order is the order of the tables.
      trajectories: arrangement → distances of the data seen so far; may be empty.
      facts: label → text, shown in this order. "title" (in any case) becomes the page's title,
        "command" or "command line" is shown as a command.
      notes: lines below the tables, such as how many rows were skipped.
      turns: arrangement → number of turns, a column of the result table where given.
      protocol: what the scores can and cannot say, the first of the notes.

    Raises:
      UserError: `summarize` finds nothing to compare.
    """
    summary = summarize(runs)
    correlations = json_ready(similarity.correlations(summary, trajectories))
    summary["correlation_with_test_loss"] = correlations
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "summary.json", _json(summary))

    drawn = {
        "loss": figures.loss_figure(summary),
        "similarity": similarity.similarity_figure(summary, trajectories),
        "loss_by_task": figures.loss_by_task_figure(summary),
        "similarity_by_task": similarity.similarity_by_task_figure(summary, trajectories),
        "scores": figures.scores_figure(summary),
        "train_loss": figures.train_loss_figure(runs),
    }
    shown = []
    for name, figure in drawn.items():
        path = folder / f"{name}.svg"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        write_bytes(path, to_svg(figure))
        told = similarity.caption(name, list(correlations)) or _caption(name, summary)
        shown.append({"name": name, "file": path.name, **told})

    labels = {label.strip().lower(): label for label in facts}
    command = labels.get("command", labels.get("command line"))
    page = render(
        "page.html",
        title=facts[labels["title"]] if "title" in labels else TITLE,
        command=None if command is None else facts[command],
        facts={k: v for k, v in facts.items() if k not in (labels.get("title"), command)},
        results=_results(summary, turns),
        turns=turns is not None,
        figures=shown,
        correlations=_correlation_table(correlations),
        tasks=_task_table(summary),
        kinds=_kind_counts(summary),
        notes=[protocol, *_notes(summary, notes)],
    )
    index = folder / "index.html"
    write_bytes(index, page)
    return index


def _results(summary: Mapping[str, Any], turns: Mapping[str, int] | None) -> list[dict[str, Any]]:
    """The rows of the result table; the lowest area and final loss are marked as `best`."""
    entries = summary["arrangements"]
    style = looks(entries)
    rows = []
    for name, entry in entries.items():
        near = entry["first_step_within_5_percent"]
        first = {"mean": near["of_mean_curve"], "std": None}
        cells = [(entry["auc"], 4), (entry["final_loss"], 4), (first, 0)]
        rows.append(
            {
                "name": name,
                "color": style[name].color,
                "dashed": style[name].dash != "-",
                "seeds": len(entry["seeds"]),
                "steps": entry["steps"][-1],
                "values": [value["mean"] for value, _ in cells],
                "cells": [_plus_minus(value, digits) for value, digits in cells],
                "seed_steps": _plus_minus(near, 1) if len(entry["seeds"]) > 1 else None,
                "turns": None if turns is None else turns.get(name),
            }
        )
    # The third column is no contest: a curve that hardly falls is near its end at once.
    for column in range(2):
        found = [row["values"][column] for row in rows if row["values"][column] is not None]
        for row in rows:
            best = len(rows) > 1 and bool(found) and row["values"][column] == min(found)
            row.setdefault("best", []).append(best)
    return rows


def _task_table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every task a row: its name, and (final loss, kind of curve) for every arrangement."""
    entries = list(summary["arrangements"].values())
    tasks = sorted({task for entry in entries for task in entry["loss_by_task"]})
    table = []
    for task in tasks:
        finals = [entry["loss_by_task"].get(task, [None])[-1] for entry in entries]
        kinds = [entry["curve_kind"].get(task) for entry in entries]
        table.append({"name": task, "cells": list(zip(map(_number, finals), kinds, strict=True))})
    return table


def _kind_counts(summary: Mapping[str, Any]) -> dict[str, list[int]]:
    kinds = [list(entry["curve_kind"].values()) for entry in summary["arrangements"].values()]
    return {kind: [found.count(kind) for found in kinds] for kind in KINDS}


def _notes(summary: Mapping[str, Any], notes: Sequence[str]) -> list[str]:
    told = list(summary["notes"])
    entries = summary["arrangements"]
    told += [f"{name}: {entry['note']}" for name, entry in entries.items() if entry["note"]]
    # Every arrangement is scored on the same rows, so this is one line unless something is odd.
    for dropped, kept in dict.fromkeys((e["dropped"], e["instances"]) for e in entries.values()):
        if dropped:
            told.append(
                f"Test instances dropped, having no answer token left after the cut: {dropped}; "
                f"scored: {kept}."
            )
    return [*told, *notes]


def _caption(name: str, summary: Mapping[str, Any]) -> dict[str, str]:
    """Heading, caption (how to read it) and alternative text of a figure."""
    entries = summary["arrangements"]
    several = any(len(entry["seeds"]) > 1 for entry in entries.values())
    finals = "; ".join(
        f"{shorten(k)} ends at {_number(e['final_loss']['mean'])}" for k, e in entries.items()
    )
    drawn, total = figures.pick_tasks(summary)
    left = total - len(drawn)
    texts = {
        "loss": (
            "Test loss",
            "Mean loss on the test rows against optimizer step. A line that falls further left "
            "learned sooner; a line that ends lower learned more."
            + (" The band is ±1 sample standard deviation over seeds." if several else ""),
            f"Line chart of test loss against step for {len(entries)} arrangements: {finals}.",
        ),
        "loss_by_task": (
            "Test loss by task",
            "One panel for each task, mean over seeds. Every panel has its own loss axis from "
            "zero, so compare shapes across panels and lines inside one."
            + (
                f" {len(drawn)} of {total} tasks are drawn, evenly spaced in the ranking by final "
                f"loss (mean over arrangements), lowest and highest included; {left} are left out "
                "here and stand in the table below."
                if left
                else ""
            ),
            f"Small line charts of test loss against step for {len(drawn)} of {total} tasks; the "
            "final values stand in the table of tasks.",
        ),
        "scores": (
            "Scores",
            "The other measures taken on the test rows, mean over seeds, each on its own axis.",
            "Line charts of each score against step for every arrangement.",
        ),
        "train_loss": (
            "Training loss",
            "Loss of each step's own training rows, mean over seeds, smoothed by a centred running "
            "mean. Arrangements train on different rows at a step, so this says how hard the data "
            "is as much as what was learned.",
            f"Line chart of smoothed training loss against step for {len(entries)} arrangements.",
        ),
    }
    heading, caption, alt = texts[name]
    return {"heading": heading, "caption": caption, "alt": alt}


def _correlation_table(correlations: Mapping[str, Any]) -> dict[str, Any]:
    """Columns, and a row a measure: its name, and (Pearson, Spearman, points) for each column."""
    columns = list(dict.fromkeys(name for row in correlations.values() for name in row))
    cells = {
        similarity.TITLES[measure]: [
            tuple(
                _number(row.get(name, {}).get(key), digits)
                for key, digits in (("pearson", 2), ("spearman", 2), ("points", 0))
            )
            for name in columns
        ]
        for measure, row in correlations.items()
    }
    return {"columns": columns, "rows": cells}


def _plus_minus(value: Mapping[str, Any], digits: int) -> str:
    spread = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return _number(value["mean"], digits) + spread


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _json(value: Any) -> bytes:
    return (json.dumps(value, allow_nan=False, ensure_ascii=False, indent=1) + "\n").encode()
