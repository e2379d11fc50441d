"""Which space and rule to use, in words, and whether the difference is real."""

import math
from collections.abc import Mapping, Sequence

from zsg_jax.report.differences import amount, interval, p_words, same, told_apart
from zsg_jax.report.metrics import METRICS, Metric
from zsg_jax.report.selection.results import Measured, Results, over_budgets, way_name
from zsg_jax.report.words import listed
from zsg_jax.statistics.paired import Difference, paired_differences

WHICH = "Which space and rule?"
REAL = "Is the difference real?"
ELSE = "Would another do as well?"
COST = "What does it cost?"
WORSE = "Is any worse than rows at random?"
_SPACE = "\N{NO-BREAK SPACE}"


def verdict(results: Results) -> dict[str, str]:
    """Question → answer, of the whole comparison, over all budgets, by its loss."""
    measured = results.measured[0]
    best, metric, found = _best(measured), METRICS[measured.name], measured.pooled
    over = listed([f"{one:,}" for one in results.budgets])
    over = f"mean over {over} rows" if len(results.budgets) > 1 else f"{over} rows"
    name = way_name(best.first)
    if len(results.seeds) == 1:
        told = (
            f"One seed: no conclusion. {name} has the lowest {metric.label}, "
            f"{amount(best, metric.digits)} as many rows at random ({over}), but nothing is known "
            "of the noise of training; give more seeds."
        )
        return {WHICH: told}
    if all(same(one) for one in found.values()):
        return {WHICH: f"None: no way differs from as many rows at random ({over})."}
    worse = {WORSE: f"{told}."} if (told := _worse(found, metric)) else {}
    if not _better(best, metric):
        return {
            WHICH: "None is better than as many rows at random by more than chance gives.",
            REAL: f"No: {_chance(best, metric)} ({over}, {len(results.seeds)} seeds).",
        } | worse
    level = [way for way, one in against_best(results).items() if not told_apart(one)]
    return {
        WHICH: f"{name} is best.",
        REAL: f"Yes: its {metric.label} is {amount(best, metric.digits)} that of as many rows at "
        f"random ({_interval(best, metric)}; {over}, {len(results.seeds)} seeds).",
        ELSE: f"{listed([way_name(way) for way in level])} cannot be told apart from it."
        if level
        else "It is told apart from every other way that was tried."
        if len(found) > 1
        else "No other was tried.",
        **_cost(results, best.first, level),
        **worse,
    }


def by_measure(results: Results) -> list[str]:
    """A sentence for each measure, set of targets and budget; none for one seed."""
    if len(results.seeds) == 1:
        return []
    lines = []
    for title, measured in results.titled:
        for budget in results.budgets:
            by_way = {way: one[budget] for way, one in measured.differences.items()}
            lines.append(f"{title}, {budget:,} rows: {_told(measured, by_way)}")
    return lines


def against_best(results: Results) -> dict[str, Difference]:
    """Every other way → the best less that one in loss, mean over budgets."""
    measured = results.measured[0]
    best = _best(measured).first
    others = [way for way in measured.pooled if way != best]
    pairs = [(best, way) for way in others]
    values = over_budgets(measured.values)
    found = paired_differences(values, pairs, clusters=measured.tasks) if pairs else []
    return dict(zip(others, found, strict=True))


def _told(measured: Measured, found: Mapping[str, Difference]) -> str:
    """Which way is best at a budget, and which are worse than rows at random."""
    metric = METRICS[measured.name]
    if all(same(one) for one in found.values()):
        return "no way differs from as many rows at random."
    way = metric.best(found, key=lambda way: found[way].mean)
    best = found[way]
    if _better(best, metric):
        told = (
            f"{way_name(way)} is best, {amount(best, metric.digits)} as many rows at random "
            f"({_interval(best, metric)})"
        )
    else:
        told = (
            "none is better than as many rows at random by more than chance gives; "
            f"{_chance(best._replace(first=way), metric)}"
        )
    worse = _worse(found, metric)
    return told + (f"; worse than random: {worse}." if worse else ".")


def _cost(results: Results, best: str, level: Sequence[str]) -> dict[str, str]:
    """What the space of the best took, and whether one that does as well took less."""
    cost, space = results.cost(best), results.space(best)
    if not space:
        return {COST: "Nothing to embed: it needs no space."} if results.costs else {}
    if cost is None:
        return {}
    told = f"{space} took {cost.seconds:,.1f} seconds and {cost.bytes / 1e6:,.1f} MB to embed"
    told += " the pool and the targets"

    def seconds(way: str) -> float:
        other = results.cost(way)
        return other.seconds if other else math.inf if results.space(way) else 0.0

    least = min([best, *level], key=seconds)
    if seconds(least) < cost.seconds:
        told += f"; {way_name(least)}, as good, is the cheapest: {seconds(least):,.1f} seconds"
    return {COST: f"{told}."}


def _worse(found: Mapping[str, Difference], metric: Metric) -> str:
    """The ways that are worse than rows at random; "" for none."""
    worse = [
        way_name(way) for way, one in found.items() if told_apart(one) and not _better(one, metric)
    ]
    return listed(worse) if worse else ""


def _best(measured: Measured) -> Difference:
    return METRICS[measured.name].best(measured.pooled.values(), key=lambda one: one.mean)


def _better(one: Difference, metric: Metric) -> bool:
    return told_apart(one) and (one.mean < 0) == (metric.best is min)


def _interval(one: Difference, metric: Metric, *, behind_amount: bool = True) -> str:
    told = interval(one, metric.digits, behind_amount=behind_amount)
    return f"{told}, p{_SPACE}{p_words(one.p_holm)}"


def _chance(best: Difference, metric: Metric) -> str:
    """Of what is not told apart: a sign, for it may lie on either side."""
    digits = metric.digits
    return (
        f"the {metric.label} of the best, {way_name(best.first)}, less that of random rows is "
        f"{best.mean:+.{digits}f} ({_interval(best, metric, behind_amount=False)}); a difference "
        f"of {best.detectable:.{digits}f} would be seen in 80{_SPACE}% of cases"
    )
