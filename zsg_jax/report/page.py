"""Writes a study's report: summary.json, the figures, and one page that shows them offline."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from zsg_jax.report import figures
from zsg_jax.report.correlation import correlations
from zsg_jax.report.differences import KEYS as DIFFERENCES
from zsg_jax.report.differences import as_json, differences, sentence
from zsg_jax.report.drawing import looks, to_svg
from zsg_jax.report.summary import KINDS, METRICS, Runs, curve_of, json_ready, summarize
from zsg_jax.runtime.files import write_bytes
from zsg_jax.similarity.trajectory import Trajectory
from zsg_jax.statistics.paired import Difference

TITLE = "Test loss by arrangement of the training data"
PROTOCOL = (
    "The test rows that steered the arrangement are also the ones scored: the study's protocol. "
    "The numbers compare arrangements; they do not estimate the loss on further unseen rows."
)
# Control characters, halves of surrogate pairs and what is no character: HTML may not hold them.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def render(template: str, **values: Any) -> bytes:
    """The page that `template`, a file of this folder, makes of `values`, in UTF-8.

    Values are text, never markup; characters that HTML may not hold become U+FFFD. A name that
    the template uses and `values` lacks raises jinja2's UndefinedError.
    """
    environment = Environment(
        loader=PackageLoader("zsg_jax.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(**values)
    return _FORBIDDEN.sub("\ufffd", page).encode()


def write_report(
    folder: Path,
    runs: Runs,
    trajectories: Mapping[str, Trajectory],
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
    *,
    title: str = TITLE,
    command: str | None = None,
    turns: Mapping[str, int] | None = None,
    protocol: str = PROTOCOL,
    window: int | None = None,
    test_tasks: Sequence[str] | None = None,
) -> Path:
    """Writes the report of `runs` into `folder` and returns the path of its index.html.

    Args:
        folder: made if absent; holds index.html, summary.json and the figures afterwards. Every
            file appears whole or not at all, the page last. A figure of an earlier report for
            which there is no data now is removed.
        runs: arrangement → seed → records of metrics.jsonl, in the order of the tables.
        trajectories: arrangement → distances of the data seen so far; may be empty.
        facts: label → text, shown in this order.
        notes: lines below the tables, such as how many rows were skipped.
        title, command: of the page, and what made it.
        turns: arrangement → number of turns, a column of the result table where given.
        protocol: what the scores can and cannot say, the first of the notes.
        window: a step up to which areas and losses are told as well.
        test_tasks: the task of every test instance, for the errors of differences.

    Raises:
        UserError: `summarize` finds nothing to compare.
    """
    summary = summarize(runs, window)
    found = json_ready(correlations(summary, trajectories))
    summary["correlation_with_test_loss"] = found
    compared = differences(runs, test_tasks, _compared_steps(summary))
    summary["differences"] = json_ready(as_json(compared))
    summary["keys"]["differences"] = DIFFERENCES
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "summary.json", _json(summary))

    drawn = {
        **{name: figures.metric_figure(summary, name) for name in METRICS},
        "similarity": figures.similarity_figure(summary, trajectories),
        **{f"{name}_by_task": figures.by_task_figure(summary, name) for name in METRICS},
        "similarity_by_task": figures.similarity_by_task_figure(summary, trajectories),
        "scores": figures.scores_figure(summary),
        "train_loss": figures.train_loss_figure(runs),
    }
    shown = []
    for name, one in drawn.items():
        path = folder / f"{name}.svg"
        if one is None:
            path.unlink(missing_ok=True)
            continue
        write_bytes(path, to_svg(one.figure))
        shown.append({"name": name, "file": path.name, **one._asdict()})

    page = render(
        "page.html",
        title=title,
        command=command,
        facts=facts,
        results=_results(summary, turns),
        turns=turns is not None,
        figures=shown,
        differences=_difference_table(compared),
        steadiness=_steadiness_table(summary),
        correlations=_correlation_table(found),
        tasks=_task_table(summary),
        kinds=_kind_counts(summary),
        notes=[protocol, *_notes(summary), *notes],
    )
    index = folder / "index.html"
    write_bytes(index, page)
    return index


def _results(summary: Mapping[str, Any], turns: Mapping[str, int] | None) -> dict[str, Any]:
    """The columns and lines of the result table; the best of several in a column is marked."""
    entries = summary["arrangements"]
    columns = {}
    windows = [entry["window"] for entry in entries.values()]
    if windows and all(windows):
        for part, title in (("auc", "Area"), ("loss", "Loss")):
            label = f"{title} {'up to' if part == 'auc' else 'at'} step {windows[0]['step']}"
            columns[label] = min, [window[part] for window in windows]
    columns["Area under loss curve"] = min, [entry["auc"] for entry in entries.values()]
    for name, metric in METRICS.items():
        curves = [curve_of(entry, name) for entry in entries.values()]
        finals = [{"mean": None, "std": None} if one is None else one["final"] for one in curves]
        columns[f"Final {name}"] = metric.best, finals
    best = []
    for of, values in columns.values():
        means = [value["mean"] for value in values if value["mean"] is not None]
        best.append(of(means) if len(entries) > 1 and means else None)
    lines = []
    for number, (name, look) in enumerate(looks(entries).items()):
        entry = entries[name]
        values = [values[number] for _, values in columns.values()]
        near = entry["first_step_within_5_percent"]
        lines.append(
            {
                "name": name,
                "color": look.color,
                "dashed": look.dash != "-",
                "seeds": len(entry["seeds"]),
                "steps": entry["steps"][-1],
                "cells": [
                    (_plus_minus(value, 4), low is not None and value["mean"] == low)
                    for value, low in zip(values, best, strict=True)
                ],
                # No contest: a curve that hardly falls is near its end at once.
                "near": _number(near["of_mean_curve"], 0),
                "seed_steps": _plus_minus(near, 1) if len(entry["seeds"]) > 1 else None,
                "turns": None if turns is None else turns.get(name),
            }
        )
    return {"columns": list(columns), "lines": lines}


def _compared_steps(summary: Mapping[str, Any]) -> list[int]:
    """The end of the window, if there is one, and the last step that all arrangements have."""
    entries = list(summary["arrangements"].values())
    common = set.intersection(*(set(entry["steps"]) for entry in entries))
    windows = {entry["window"]["step"] for entry in entries if entry["window"]}
    return sorted({*windows & common, *([max(common)] if common else [])})


def _difference_table(compared: Mapping[int, list[Difference]]) -> list[dict[str, Any]]:
    """For every step and pair a line: what it says, and its numbers."""
    return [
        {
            "step": step,
            "sentence": sentence(one),
            "cells": [
                f"{one.mean:+.4f}",
                f"{one.low:+.4f} to {one.high:+.4f}",
                f"{one.p_holm:.3f}",
                f"{one.detectable:.4f}",
            ],
            "seeds": one.seeds,
        }
        for step, pairs in compared.items()
        for one in pairs
    ]


def _steadiness_table(summary: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Metric → (moves against the trend, noise) for every arrangement; only what some have."""
    entries = summary["arrangements"].values()
    names = dict.fromkeys(["loss", *(name for entry in entries for name in entry["scores"])])
    table = {}
    for name in names:
        found = [(curve_of(entry, name) or {}).get("steadiness") for entry in entries]
        if any(found):
            table[name] = [
                (f"{one['against']:.0%}", f"{one['noise']:.1%}") if one else ("–", "–")
                for one in found
            ]
    return table


def _task_table(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every task a line: its name, and (final loss, kind of curve) for every arrangement."""
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


def _notes(summary: Mapping[str, Any]) -> list[str]:
    notes = list(summary["notes"])
    entries = summary["arrangements"]
    notes += [f"{name}: {entry['note']}" for name, entry in entries.items() if entry["note"]]
    # Every arrangement is scored on the same rows, so this is one line unless something is odd.
    for dropped, kept in dict.fromkeys((e["dropped"], e["instances"]) for e in entries.values()):
        if dropped:
            notes.append(
                f"Test instances dropped, having no answer token left after the cut: {dropped}; "
                f"scored: {kept}."
            )
    return notes


def _correlation_table(found: Mapping[str, Any]) -> dict[str, Any]:
    """Columns, and a line a measure: its name, and (Pearson, Spearman) for each column."""
    columns = list(dict.fromkeys(name for by_name in found.values() for name in by_name))
    cells = {
        figures.TITLES[measure]: [
            [_number(by_name.get(name, {}).get(key), 2) for key in ("pearson", "spearman")]
            for name in columns
        ]
        for measure, by_name in found.items()
    }
    return {"columns": columns, "rows": cells}


def _plus_minus(value: Mapping[str, Any], digits: int) -> str:
    spread = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return _number(value["mean"], digits) + spread


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _json(value: Any) -> bytes:
    return (json.dumps(value, allow_nan=False, ensure_ascii=False, indent=1) + "\n").encode()
