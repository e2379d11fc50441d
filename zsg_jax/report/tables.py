"""The tables of a study's page, as the macro `table` of macros.html lays them out."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from zsg_jax.report import figures
from zsg_jax.report.curves import KINDS
from zsg_jax.report.differences import Compared, p_words, signed_interval, told_apart
from zsg_jax.report.drawing import Look, looks
from zsg_jax.report.metrics import METRICS, metric_of
from zsg_jax.report.summary import GROUPS, OVER_TASKS, curve_of, over_tasks
from zsg_jax.report.words import plain_name

NONE = "–"


class Cell(NamedTuple):
    """A number, or what stands for one; `beside` or `below` it something small."""

    text: str
    beside: str = ""
    below: str = ""
    best: bool = False


class Row(NamedTuple):
    """A line of a table; `look` and `plain` name are those of the arrangement it is about."""

    name: str
    cells: Sequence[str | Cell]
    look: Look | None = None
    plain: str = ""


class Table(NamedTuple):
    """What the first column is about, the names of the others, and the lines."""

    corner: str
    columns: Sequence[str]
    rows: Sequence[Row]


def as_csv(table: Table) -> bytes:
    """A table as CSV, what stands for no value left empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([table.corner, *table.columns])
    for row in table.rows:
        writer.writerow([row.name, *("" if cell == NONE else cell for cell in row.cells)])
    return out.getvalue().encode()


class _Column(NamedTuple):
    """Mean and deviation of every arrangement, and which arrangement, if any, is the best.

    `score`: the measure whose last value this is, "" for another value.
    """

    digits: int
    values: Sequence[Mapping[str, Any]]
    best: str | None = None
    score: str = ""


def results(
    summary: Mapping[str, Any],
    turns: Mapping[str, int] | None,
    compared: Mapping[str, Mapping[int, Iterable[Compared]]],
) -> Table:
    """A line an arrangement; the best in a column is marked that is told apart from every other.

    `compared` holds, by measure and step, what tells them apart. Of one seed nothing is marked.
    """
    entries, window = summary["arrangements"], summary["window"]
    columns: dict[str, _Column] = {}
    if window is not None:
        areas = [entry["window"]["auc"] for entry in entries.values()]
        columns[f"Area up to step {window}"] = _Column(4, areas)
        values = [entry["window"]["loss"] for entry in entries.values()]
        best = _best(entries, values, min, compared.get("loss", {}).get(window, ()))
        columns[f"Loss at step {window}"] = _Column(4, values, best)
    columns["Area under loss curve"] = _Column(4, [entry["auc"] for entry in entries.values()])
    for name, metric in METRICS.items():
        curves = [curve_of(entry, name) for entry in entries.values()]
        if any(curves):
            finals = [
                {"mean": None, "std": None} if one is None else one["final"] for one in curves
            ]
            ends = {one["steps"][-1] for one in curves if one}
            # Of arrangements that end apart none is the best.
            told = compared.get(name, {}).get(max(ends), ())
            best = _best(entries, finals, metric.best, told)
            columns[f"Final {metric.label}"] = _Column(metric.digits, finals, best, name)
    rows = []
    for number, (name, look) in enumerate(looks(entries).items()):
        entry = entries[name]
        cells = [
            Cell(
                _told(one.values[number], one.digits),
                below=_ended(entry, one.score),
                best=one.best == name,
            )
            for one in columns.values()
        ]
        rows.append(Row(name, [*cells, *_about(entry, turns, name)], look, plain_name(name)))
    last = [
        "First step within 5 %",
        *(["Turns"] if turns is not None else []),
        "Seeds",
        "Last step",
    ]
    return Table("Arrangement", [*columns, *last], rows)


def _best(
    entries: Mapping[str, Mapping[str, Any]],
    values: Sequence[Mapping[str, Any]],
    of: Callable[..., Any],
    compared: Iterable[Compared],
) -> str | None:
    """The arrangement with the best value, if several seeds tell it apart from every other."""
    means = {
        name: one["mean"]
        for name, one in zip(entries, values, strict=True)
        if one["mean"] is not None
    }
    pairs = [one.difference for one in compared if one.difference.seeds > 1]
    apart = {frozenset((one.first, one.second)) for one in pairs if told_apart(one)}
    if len(means) < 2:
        return None
    best = of(means, key=means.__getitem__)
    return best if all({best, other} in apart for other in means if other != best) else None


def _ended(entry: Mapping[str, Any], score: str) -> str:
    """The step of a measure's last value, where that is not the last step."""
    curve = curve_of(entry, score) if score else None
    earlier = curve is not None and curve["steps"][-1] != entry["steps"][-1]
    return f"at step {curve['steps'][-1]}" if curve and earlier else ""


def _about(entry: Mapping[str, Any], turns: Mapping[str, int] | None, name: str) -> list[Cell]:
    near = entry["first_step_within_5_percent"]
    seeds = f"seeds: {_told(near, 1)}" if len(entry["seeds"]) > 1 else ""
    cells = [Cell(_number(near["of_mean_curve"], 0), below=seeds)]
    if turns is not None:
        cells.append(Cell(str(turns.get(name, NONE))))
    return [*cells, Cell(str(len(entry["seeds"]))), Cell(str(entry["steps"][-1]))]


def differences(found: Mapping[int, Iterable[Compared]], digits: int) -> Table:
    """A line for every step and pair: its numbers."""
    rows, mcnemar = [], False
    for step, compared in found.items():
        for one, p, _ in compared:
            cells = [
                str(step),
                f"{one.mean:+.{digits}f}",
                signed_interval(one, digits),
                p_words(one.p_holm),
                f"{one.detectable:.{digits}f}" if one.detectable else NONE,
                *([] if p is None else [p_words(p)]),
            ]
            mcnemar |= p is not None
            rows.append(Row(f"{one.first} − {one.second}", cells))
    columns = ["Step", "Difference", "95 % interval", "p (Holm)", "Detectable"]
    return Table("Pair", columns + ["p (McNemar)"] * mcnemar, rows)


def steadiness(summary: Mapping[str, Any]) -> Table:
    """Moves against the trend and noise of each measure that moved in some arrangement."""
    entries = summary["arrangements"]
    scores = [name for entry in entries.values() for name in entry["scores"]]
    rows = []
    for name in [one for one in dict.fromkeys(["loss", *scores]) if one not in over_tasks(scores)]:
        found = [(curve_of(entry, name) or {}).get("steadiness") for entry in entries.values()]
        if any(found):
            cells = [
                Cell(f"{one['against']:.0%}", f"({one['noise']:.1%})") if one else NONE
                for one in found
            ]
            rows.append(Row(metric_of(name).label, cells))
    return Table("Moves against the trend (noise)", list(entries), rows)


def by_group(summary: Mapping[str, Any], metric: str, group: str) -> Table:
    """The final value of every part of a group of `GROUPS`; of a task's loss its kind of curve."""
    entries = summary["arrangements"]
    curves = [(curve_of(entry, metric) or {}).get(group, {}) for entry in entries.values()]
    rows = []
    for name in sorted({name for curve in curves for name in curve}):
        cells = []
        for curve, entry in zip(curves, entries.values(), strict=True):
            kind = entry["curve_kind"].get(name) if (metric, group) == ("loss", "by_task") else None
            last = curve.get(name, [None])[-1]
            below = kind or _ended(entry, metric)
            cells.append(Cell(_number(last, METRICS[metric].digits), below=below))
        rows.append(Row(name, cells))
    over = [curve_of(entry, f"{metric}{OVER_TASKS}") for entry in entries.values()]
    if group == "by_task" and rows and all(over):
        means = [_number(one["final"]["mean"], METRICS[metric].digits) for one in over if one]
        rows.append(Row("(mean over tasks)", means))
    return Table(GROUPS[group].capitalize(), list(entries), rows)


def kinds(summary: Mapping[str, Any]) -> Table:
    """How many tasks have each kind of loss curve."""
    entries = summary["arrangements"]
    found = [list(entry["curve_kind"].values()) for entry in entries.values()]
    rows = [Row(kind, [str(one.count(kind)) for one in found]) for kind in KINDS]
    return Table("Number of tasks whose loss …", list(entries), rows)


def correlations(found: Mapping[str, Any]) -> Table:
    """A line a measure: Pearson's correlation and Spearman's."""
    columns = list(dict.fromkeys(name for by_name in found.values() for name in by_name))
    rows = []
    for measure, by_name in found.items():
        both = [by_name.get(name, {}) for name in columns]
        cells = [
            Cell(_number(one.get("pearson"), 2), f"({_number(one.get('spearman'), 2)})")
            for one in both
        ]
        rows.append(Row(figures.TITLES[measure], cells))
    return Table("Correlation of the test loss with", columns, rows)


def mean_and_std(values: Sequence[float] | np.ndarray) -> tuple[float | None, float | None]:
    """The mean and, of several values, their sample standard deviation."""
    array = np.asarray(values, np.float64)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else None
    return float(array.mean()) if len(array) else None, deviation


def plus_minus(mean: float | None, std: float | None, digits: int) -> str:
    """A mean with its deviation, where there are these."""
    return _number(mean, digits) + ("" if std is None else f" ± {std:.{digits}f}")


def _told(value: Mapping[str, Any], digits: int) -> str:
    return plus_minus(value["mean"], value["std"], digits)


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
