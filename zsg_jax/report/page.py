"""Writes a study's report: summary.json, the figures, and one page that shows them offline."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from zsg_jax.report import figures, tables
from zsg_jax.report.correlation import correlations
from zsg_jax.report.curves import json_ready
from zsg_jax.report.differences import KEYS as DIFFERENCES
from zsg_jax.report.differences import Compared, as_json, differences, luck, sentences, unit
from zsg_jax.report.distributions import rewards_figure
from zsg_jax.report.examples import values_of, with_sets
from zsg_jax.report.metrics import METRICS, metric_of
from zsg_jax.report.reading import by_loss, reading
from zsg_jax.report.summary import GROUPS, Pair, Runs, compared_at, curve_of, summarize
from zsg_jax.report.svg import embedded, to_svg
from zsg_jax.report.words import plain_name
from zsg_jax.runtime.files import write_bytes, write_json
from zsg_jax.similarity.trajectory import Trajectory

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
    script = (Path(__file__).parent / "tables.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals["plain_name"] = plain_name
    page = environment.get_template(template).render(
        script=Markup(script), script_digest=digest, **values
    )
    return _FORBIDDEN.sub("\ufffd", page).encode()


def write_page(folder: Path, template: str, **values: Any) -> Path:
    """Writes what `render` gives as the index.html of a folder, and returns its path."""
    index = folder / "index.html"
    write_bytes(index, render(template, **values))
    return index


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
    test_sets: Mapping[str, str] | None = None,
    test_rows: Sequence[Mapping[str, Any]] = (),
    scored: Runs | None = None,
    settings: tables.Table | None = None,
    explained: Mapping[str, str] | None = None,
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
        test_sets: id → target set of every test instance, in their order, where there are sets.
        test_rows: id, task, prompt and references of every test instance; may be empty.
        scored: arrangement → seed → records of generations.jsonl and scores.jsonl.
        settings: of runs of several studies, named STUDY: ARRANGEMENT, those that differ.
        explained: arrangement → its own page, from `folder`; may be empty.

    Raises:
        UserError: `summarize` finds nothing to compare.
    """
    runs = with_sets(runs, scored or {}, test_sets or {})
    summary = summarize(runs, window)
    found = json_ready(correlations(summary, trajectories))
    summary["correlation_with_test_loss"] = found
    pairs = None if settings is None else _between_studies(runs)
    compared = _differences(summary, runs, scored or {}, test_tasks, pairs)
    told = {name: as_json(by_step) for name, by_step in compared.items()}
    summary["differences"] = json_ready(told)
    summary["keys"]["differences"] = DIFFERENCES
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "summary.json", summary)

    measures = [_difference(summary, *of_one) for of_one in compared.items()]
    return write_page(
        folder,
        "page.html",
        title=title,
        command=command,
        facts=facts,
        results=tables.results(summary, turns, compared),
        settings=settings,
        figures=_draw(folder, summary, runs, scored or {}, trajectories),
        differences=measures,
        units=list(dict.fromkeys(one["unit"] for one in measures)),
        compared_seeds=sorted({count for one in measures for count in one["seeds"]}),
        steadiness=tables.steadiness(summary),
        correlations=tables.correlations(found),
        kinds=tables.kinds(summary),
        groups=_groups(summary),
        reading=reading(scored or {}) or by_loss(runs, test_rows),
        notes=[protocol, *_notes(summary), *notes],
        one_seed=any(len(entry["seeds"]) == 1 for entry in summary["arrangements"].values()),
        explained=explained or {},
    )


def _draw(
    folder: Path,
    summary: Mapping[str, Any],
    runs: Runs,
    scored: Runs,
    trajectories: Mapping[str, Trajectory],
) -> list[dict[str, Any]]:
    """Writes the figures there are data for; gives each as the template takes it."""
    drawn = {
        **{name: figures.metric_figure(summary, name) for name in METRICS},
        "similarity": figures.similarity_figure(summary, trajectories),
        **{
            f"{name}_{group}": figures.by_group_figure(summary, name, group)
            for group in ("by_set", "by_task")
            for name in METRICS
        },
        "similarity_by_task": figures.similarity_by_task_figure(summary, trajectories),
        "rewards": rewards_figure(scored, list(runs)),
        "scores": figures.scores_figure(summary),
        "train_loss": figures.train_loss_figure(runs),
    }
    shown = []
    for name, one in drawn.items():
        path = folder / f"{name}.svg"
        if one is None:
            path.unlink(missing_ok=True)
            continue
        svg = to_svg(one.figure)
        write_bytes(path, svg)
        shown.append({"name": name, **embedded(name, one, svg)})
    return shown


def _differences(
    summary: Mapping[str, Any],
    runs: Runs,
    scored: Runs,
    tasks: Sequence[str] | None,
    pairs: Sequence[Pair] | None,
) -> dict[str, dict[int, list[Compared]]]:
    """Those of every measure that has a value for each example, of `pairs` or of all."""
    found = {}
    every = {score for entry in summary["arrangements"].values() for score in entry["scores"]}
    for name in [*METRICS, *sorted(every - METRICS.keys())]:
        steps = compared_at(summary, name, pairs)
        measured = values_of(name, runs, scored, tasks, steps)
        by_step = differences(measured, steps, right_or_wrong=metric_of(name).right_or_wrong)
        if by_step:
            found[name] = by_step
    return found


def _between_studies(runs: Runs) -> list[Pair]:
    """The pairs of runs of different studies; those of one study stand on its own page."""
    study = {name: name.rpartition(": ")[0] for name in runs}
    return [(a, b) for a, b in combinations(runs, 2) if study[a] != study[b]]


def _difference(
    summary: Mapping[str, Any], name: str, by_step: Mapping[int, list[Compared]]
) -> dict[str, Any]:
    metric, entries = metric_of(name), summary["arrangements"]
    ends = {a: curve["steps"][-1] for a, one in entries.items() if (curve := curve_of(one, name))}
    return {
        "name": name,
        "title": metric.title,
        "sentences": [*sentences(by_step, metric, ends), *luck(by_step, metric.digits)],
        "table": tables.differences(by_step, metric.digits),
        "right_or_wrong": metric.right_or_wrong,
        "unit": unit(by_step),
        "seeds": {one.difference.seeds for pairs in by_step.values() for one in pairs},
        "most_seeds": max(len(entry["seeds"]) for entry in entries.values()),
    }


def _groups(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tables of each measure by the `GROUPS` that it has."""
    found = []
    for name, metric in METRICS.items():
        for group in GROUPS:
            table = tables.by_group(summary, name, group)
            if table.rows:
                title = f"Final {metric.label} by {GROUPS[group]}"
                found.append({"id": f"{name}_{group}", "title": title, "table": table})
    return found


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
