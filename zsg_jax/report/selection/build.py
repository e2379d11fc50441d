"""Writes the page of a comparison of selections: the answer, figures, and a table, also as CSV."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from zsg_jax.report.differences import p_words, signed_interval, told_apart
from zsg_jax.report.metrics import METRICS, Metric
from zsg_jax.report.page import write_page
from zsg_jax.report.rows import but_alike, copies
from zsg_jax.report.selection import figures
from zsg_jax.report.selection.results import (
    RANDOM,
    Cell,
    Measured,
    Results,
    read,
    way_name,
)
from zsg_jax.report.selection.verdict import against_best, by_measure, verdict
from zsg_jax.report.svg import all_embedded
from zsg_jax.report.tables import NONE, Row, Table, as_csv, mean_and_std, plus_minus
from zsg_jax.report.tables import Cell as Shown
from zsg_jax.report.words import listed, plain_name, space_words
from zsg_jax.runtime.files import need_json, read_json, write_bytes
from zsg_jax.statistics.paired import Difference
from zsg_jax.workdir.begun import begun
from zsg_jax.workdir.layout import CONFIG, DATA, EXPLAINED, LEAKAGE, arrangement_folder

_COMPARED = ("mean", "low", "high", "p", "p_holm", "detectable")  # of a `Difference`
_COST = ("Seconds to embed", "MB of embeddings")
# A rule's plain name is that of an order; here it selects, and the order is another matter.
_RULES = {
    RANDOM: "drawn anew by every seed",
    "tmta-min": "turn by turn, the nearest of every target",
}


def build(workdir: Path, cells: Iterable[Cell], *, title: str, command: str) -> Path:
    """Writes `workdir/report` from the records of finished studies.

    Args:
        workdir: of the comparison.
        cells: what is compared, rows at random among them.
        title, command: of the page, and what made it.

    Returns:
        The path of index.html, one file that needs no other but what it leads to.

    Raises:
        UserError: a run has not finished.
    """
    results = read(cells)
    folder = workdir / "report"
    write_bytes(folder / "results.csv", as_csv(numbers(results)))
    drawn = figures.costs(results), *(figures.gains(results, *one) for one in results.titled)
    told = begun(workdir, command)
    return write_page(
        folder,
        "selection.html",
        title=title,
        command=told[0],
        verdict=verdict(results),
        sentences=by_measure(results),
        answer=answer(results),
        spaces={one.space: space_words(one.space) for one in results.cells if one.space},
        budgets=listed([f"{one:,}" for one in results.budgets]),
        results=table(results, results.measured),
        by_set=table(results, list(results.by_set.values()), list(results.by_set)),
        figures=all_embedded(drawn),
        leakage=_leakage(results),
        explained=_explained(workdir, results),
        facts=_facts(workdir, results) | told[1],
    )


def answer(results: Results) -> Table:
    """A line for every way, the best first: gain over budgets, and what its space costs."""
    measured = results.measured[0]
    metric, level = METRICS[measured.name], against_best(results)
    one_seed = len(results.seeds) == 1
    rows = []
    for way, one in sorted(
        measured.pooled.items(), key=lambda item: item[1].mean, reverse=metric.best is max
    ):
        gain, interval = f"{one.mean:+.{metric.digits}f}", _interval(one, metric)
        cells: list[str | Shown] = [
            Shown(gain, below="" if one_seed else interval),
            NONE if one_seed else _level(level.get(way), metric),
            *_cost(results, way),
        ]
        rows.append(Row(way_name(way), cells, plain=_plain(way)))
    columns = [f"{metric.title} less random's", "Against the best", *_COST]
    return Table("Space and rule", columns, rows)


def _interval(one: Difference, metric: Metric) -> str:
    return f"{signed_interval(one, metric.digits)}, p {p_words(one.p_holm)}"


def _level(best_less: Difference | None, metric: Metric) -> str:
    if best_less is None:
        return "the best"
    if not told_apart(best_less):
        return "not told apart"
    return f"{-best_less.mean:+.{metric.digits}f}, p {p_words(best_less.p_holm)}"


def table(
    results: Results, measured: Sequence[Measured], labels: Sequence[str] | None = None
) -> Table:
    """A line for every budget and way, below each value its difference to random.

    Args:
        measured: a column each.
        labels: of the columns; None: what was measured.
    """
    rows = []
    for budget in results.budgets:
        for way in results.ways:
            shown = [_shown(one, way, budget) for one in measured]
            cells: list[str | Shown] = [f"{budget:,}", *shown, *_cost(results, way)]
            rows.append(Row(way_name(way), cells, plain=_plain(way)))
    labels = labels or [METRICS[one.name].title for one in measured]
    return Table("Space and rule", ["Rows", *labels, *_COST], rows)


def _plain(way: str) -> str:
    rule = way.rpartition(": ")[2]
    return _RULES.get(rule) or plain_name(rule)


def _shown(measured: Measured, way: str, budget: int) -> Shown:
    values = measured.values[way][budget].mean(axis=1)
    digits = METRICS[measured.name].digits
    told = plus_minus(*mean_and_std(values), digits)
    if way == RANDOM:
        return Shown(told)
    one = measured.differences[way][budget]
    interval = _interval(one, METRICS[measured.name])
    return Shown(told, below=f"{one.mean:+.{digits}f}: {interval}")


def _cost(results: Results, way: str) -> list[str]:
    cost = results.cost(way)
    return [NONE, NONE] if cost is None else [f"{cost.seconds:,.1f}", f"{cost.bytes / 1e6:,.1f}"]


def numbers(results: Results) -> Table:
    """The same as plain numbers, a line for every measure too, and for the loss of every set."""
    rows = []
    sets = [*([""] * len(results.measured)), *results.by_set]
    for of, (_, measured) in zip(sets, results.titled, strict=True):
        for budget in results.budgets:
            for way in results.ways:
                space, _, rule = way.rpartition(": ")
                values = measured.values[way][budget].mean(axis=1)
                one = measured.differences.get(way, {}).get(budget)
                cost = results.cost(way)
                cells = [
                    *mean_and_std(values),
                    *(getattr(one, field, None) for field in _COMPARED),
                    *(len(values), *(cost or (None, None))),
                ]
                rows.append(
                    Row(measured.name, [of, space, rule, str(budget), *map(_number, cells)])
                )
    columns = ["target_set", "space", "rule", "budget", "mean", "std", "difference", *_COMPARED[1:]]
    return Table("measure", [*columns, "seeds", "seconds", "bytes"], rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value)


def _leakage(results: Results) -> Mapping[str, str]:
    """Space → what of the test rows was found among the training rows by it."""
    found: dict[str, str] = {}
    for cell in results.cells:
        told = read_json(cell.folder / LEAKAGE, ("sentence",))
        if told is not None:
            found.setdefault(cell.space or "hashing", f"{told['sentence']}.")
    return found


def _explained(workdir: Path, results: Results) -> Mapping[str, str]:
    """What is shown → the page of its arrangement, from the report's folder."""
    seed, found = results.seeds[0], dict[str, str]()
    for cell in sorted(results.cells, key=lambda cell: cell.budget):
        page = arrangement_folder(cell.folder, cell.names[seed]) / EXPLAINED
        if page.exists():
            path = quote(page.relative_to(workdir).as_posix())
            found[f"{way_name(cell.way)}, {cell.budget:,} rows"] = f"../{path}"
    return found


def _facts(workdir: Path, results: Results) -> dict[str, str]:
    config = need_json(workdir / CONFIG)
    data = need_json(results.cells[0].folder / DATA, ("aimed_rows", "scored_rows"))
    runs = len(results.cells) * len(results.seeds)
    shuffled = "by chance" if config["grid.shuffle"] else "as the rule gives it"
    return {
        "Training data": f"{config['data.train']}: {data['train_rows']:,} rows of "
        f"{data['train_tasks']:,} tasks",
        "Targets": f"{config['data.test']}: {data['aimed_rows']:,} rows to aim at, "
        f"{data['scored_rows']:,} others of {len(set(data['test_id_tasks'])):,} tasks to score"
        f"{but_alike(data)}{copies(data)}",
        "Order of the selected rows": shuffled,
        "Instances a step": str(config["training.batch_size"]),
        "Learning rate": f"{config['training.learning_rate']:g}",
        "Runs": f"{runs}, {len(results.seeds)} of each line; {results.seconds:,.0f} seconds in "
        "training steps",
        **{key: results.facts[key] for key in ("Model", "Devices") if key in results.facts},
    }
