"""Writes the page of the instruction-diversity study: figures, tables, and the tables as CSV."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsg_jax.diversity.cells import Cell
from zsg_jax.diversity.runs import ended, folder_of
from zsg_jax.report.diversity import figures
from zsg_jax.report.diversity.published import CLAIMS, OCCURRENCES
from zsg_jax.report.diversity.results import MEASURES, Group, read, rising
from zsg_jax.report.page import write_page
from zsg_jax.report.runs import put_together
from zsg_jax.report.svg import all_embedded
from zsg_jax.report.tables import NONE, Row, Table, as_csv, mean_and_std, plus_minus
from zsg_jax.runtime.files import need_json, write_bytes
from zsg_jax.workdir.begun import begun
from zsg_jax.workdir.layout import CONFIG


def build(workdir: Path, cells: Sequence[Cell], *, title: str, command: str) -> Path:
    """Writes `workdir/report` from the records of a finished grid.

    Args:
        workdir: of the study.
        cells: of the grid.
        title, command: of the page, and what made it.

    Returns:
        The path of index.html, one file that needs no other.

    Raises:
        UserError: a cell has not finished.
    """
    groups = read(workdir, cells)
    folder = workdir / "report"
    tables = {
        "results": results(groups),
        "transitions": transitions(groups),
        "kinds": kinds(groups),
    }
    for name, table in tables.items():
        write_bytes(folder / f"{name}.csv", as_csv(table))
    write_bytes(folder / "curves.csv", as_csv(curves(groups)))
    drawn = [
        figures.by_rules(groups),
        figures.applications(groups),
        *_by_axis(groups),
        figures.by_kind(groups),
        figures.phases(groups),
        *(figures.curves(group) for group in groups[: figures.MOST_GROUPS]),
    ]
    varied = list(groups[0].values)
    told = begun(workdir, command)
    return write_page(
        folder,
        "diversity.html",
        title=title,
        command=told[0],
        figures=all_embedded(drawn),
        claims=[CLAIMS[axis] for axis in ("rules", *varied) if axis in CLAIMS],
        one_seed=any(len(seeds) == 1 for group in groups for seeds in group.records.values()),
        occurrences=_published() if "occurrences" in varied else None,
        facts=_facts(workdir, cells) | told[1],
        applied=rising(groups) == "unseen_exact_applied",
        **tables,
    )


def _by_axis(groups: Sequence[Group]) -> list[Any]:
    if len(groups[0].values) != 1:
        return []
    (axis,) = groups[0].values
    return [figures.heatmap(groups, axis), figures.by_axis(groups, axis)]


def results(groups: Sequence[Group]) -> Table:
    """A line for each group and I: means over seeds, and their standard deviations."""
    there = [name for name in MEASURES if any(group.last(name) for group in groups)]
    rows = []
    for group in groups:
        last = {name: group.last(name) for name in there}
        for rules, by_seed in sorted(group.records.items()):
            values = [list(last[name].get(rules, {}).values()) for name in there]
            cells = [plus_minus(*mean_and_std(one), 3) for one in values]
            rows.append(Row(group.named(rules), [*cells, str(len(by_seed))]))
    return Table("Cells", [*(MEASURES[name] for name in there), "seeds"], rows)


def transitions(groups: Sequence[Group]) -> Table:
    """A line for each group: the fitted transition."""
    rows, measure = [], rising(groups)
    for group in groups:
        found = group.transition(measure)
        cells = [NONE] * 4
        if found is not None:
            interval = NONE if found.low is None else f"{found.low:,.0f} to {found.high:,.0f}"
            slope = NONE if found.between else f"{found.slope:.2f}"
            cells = [f"{found.midpoint:,.0f}", interval, slope, f"{found.top:.3f}"]
        rows.append(Row(group.title, cells))
    return Table("Transition", ["midpoint, rules", "95 % interval", "slope", "top"], rows)


def kinds(groups: Sequence[Group]) -> Table:
    """A line for each group and I: accuracy by the kind of the unseen rule."""
    found = figures.kinds(groups)
    columns = sorted({kind for by_kind in found.values() for kind in by_kind})
    rows = [
        Row(name, [f"{by[kind]:.3f}" if kind in by else NONE for kind in columns])
        for name, by in found.items()
    ]
    return Table("Cells", columns, rows)


def curves(groups: Sequence[Group]) -> Table:
    """A line for each group, I, seed and step."""
    rows = []
    for group in groups:
        for rules, by_seed in sorted(group.records.items()):
            for seed, records in sorted(by_seed.items()):
                rows += [
                    Row(
                        group.named(rules),
                        [str(seed), str(one["step"])]
                        + ["" if one[name] is None else f"{one[name]:.6g}" for name in MEASURES],
                    )
                    for one in records
                ]
    return Table("cells", ["seed", "step", *MEASURES], rows)


def _published() -> Table:
    columns = list(next(iter(OCCURRENCES.values())))
    rows = [
        Row(f"{name} in training", [f"{by_rules[one]:.2f}" for one in columns])
        for name, by_rules in OCCURRENCES.items()
    ]
    return Table("2402.10891, table 1", [f"I = {one:,}" for one in columns], rows)


def _facts(workdir: Path, cells: Sequence[Cell]) -> dict[str, str]:
    config = need_json(workdir / CONFIG, ())
    ends = [ended(folder_of(workdir, cell)) or {} for cell in cells]
    steps, batch = config["training.steps"], config["training.batch_size"]
    return {
        "Model": config["model.size"],
        "Rows": f"{steps * batch:,} a cell, in {steps:,} steps of {batch}",
        "Tokens with loss": config["training.loss"],
        "Form of rows": f"{config['data.form']}, {config['data.letters']} letters",
        "Scored on": f"{config['evaluation.rows']:,} rows of {config['evaluation.rules']:,} rules "
        "of which neither x nor y was trained on, and as many rows of trained rules",
        "Cells": str(len(cells)),
        **_cut(cells, steps * batch),
        **_seconds(ends),
        **put_together({"": [_of_cell(one) for one in ends]}),
    }


def _cut(cells: Sequence[Cell], total: int) -> dict[str, str]:
    asked = sorted({cell.different for cell in cells if cell.different > total})
    if not asked:
        return {}
    told = ", ".join(f"{one:,}" for one in asked)
    return {
        "Fewer rows than were asked for": f"{told} different rows were asked for, of which a cell "
        f"meets {total:,}, each once, as one of fresh rows does"
    }


def _seconds(ends: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What all cells took; earlier versions counted what each waited for others, too."""
    if not all("how" in one for one in ends):
        return {}
    return {"Seconds of all cells": f"{sum(one['seconds'] for one in ends):,.0f}"}


def _of_cell(end: Mapping[str, Any]) -> dict[str, str]:
    """What a cell says of how it was computed; those of earlier versions say less."""
    names = {"how": "Computed", "device": "Device", "jax": "JAX"}
    return {label: end[key] for key, label in names.items() if end.get(key)}
