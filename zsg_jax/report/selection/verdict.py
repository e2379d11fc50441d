"""Which space and rule to use, in words, and whether the difference is real."""

from collections.abc import Sequence

from zsg_jax.report.differences import told_apart
from zsg_jax.report.metrics import METRICS, Metric
from zsg_jax.report.selection.results import Measured, Results, over_budgets
from zsg_jax.statistics.paired import Difference, paired_differences

_SPACE = "\N{NO-BREAK SPACE}"


def verdict(results: Results) -> str:
    """The answer of the whole comparison, over all budgets, by its loss."""
    measured, pooled = results.measured[0], list(results.measured[0].pooled.values())
    metric, best = METRICS[measured.name], _best(measured, pooled)
    over = f"; means over budgets of {_listed([f'{one:,}' for one in results.budgets])} rows"
    over = over if len(results.budgets) > 1 else f"; {results.budgets[0]:,} rows"
    if len(results.seeds) == 1:
        return (
            f"One seed: no conclusion. {_name(best.first)} has the lowest {metric.label}, "
            f"{_amount(best, metric)} that of as many rows at random{over}, but nothing is known "
            "of the noise of training; give more seeds."
        )
    return f"{_told(measured, pooled)[:-1]}{over}.{_cheaper(results, measured)}"


def by_measure(results: Results) -> list[str]:
    """A sentence for each measure and budget; none for one seed."""
    if len(results.seeds) == 1:
        return []
    lines = []
    for measured in results.measured:
        for budget in results.budgets:
            by_way = measured.differences.items()
            found = [(way, by_budget[budget]) for way, by_budget in by_way]
            told = _told(measured, [one._replace(first=way) for way, one in found])
            lines.append(f"{METRICS[measured.name].title}, {budget:,} rows: {told}")
    return lines


def _told(measured: Measured, found: Sequence[Difference]) -> str:
    """Which way is best, and which are worse than rows at random."""
    best, metric = _best(measured, found), METRICS[measured.name]
    sign = 1 if metric.best is min else -1
    if all(one.mean == one.low == one.high == 0 for one in found):
        return "No space and rule differs from as many rows at random."
    how = f"{_amount(best, metric)} that of as many rows at random{_interval(best, metric)}"
    if told_apart(best) and sign * best.mean < 0:
        told = f"{_name(best.first)} is best, its {metric.label} {how}."
    else:
        told = (
            f"No space and rule is better than rows at random by more than chance gives: the "
            f"best, {_name(best.first)}, has a {metric.label} {how}; a difference of "
            f"{best.detectable:.{metric.digits}f} would be seen in 80{_SPACE}% of cases."
        )
    worse = [_name(one.first) for one in found if told_apart(one) and sign * one.mean > 0]
    return told[:-1] + (f"; worse than random: {_listed(worse)}." if worse else ".")


def _cheaper(results: Results, measured: Measured) -> str:
    """Whether others cannot be told from the best, and cost less."""
    best = _best(measured, list(measured.pooled.values()))
    others = [way for way in measured.pooled if way != best.first]
    pairs = [(best.first, way) for way in others]
    if not pairs or not told_apart(best):
        return ""
    apart = paired_differences(over_budgets(measured.values), pairs, clusters=measured.tasks)
    level = [one.second for one in apart if not told_apart(one)]
    if not level:
        return " It is told apart from every other way that was tried."
    told = f" It cannot be told apart from {_listed([_name(way) for way in level])}"

    def seconds(way: str) -> float:
        cost = results.cost(way)
        return cost.seconds if cost else 0.0

    least = min(level, key=seconds)
    if seconds(least) < seconds(best.first):
        told += (
            f", of which {_name(least)} is the cheapest: its space took {seconds(least):,.1f} "
            f"seconds, that of the best {seconds(best.first):,.1f}"
        )
    return f"{told}."


def _best(measured: Measured, found: Sequence[Difference]) -> Difference:
    return METRICS[measured.name].best(found, key=lambda one: one.mean)


def _amount(one: Difference, metric: Metric) -> str:
    return f"{abs(one.mean):.{metric.digits}f} {'below' if one.mean < 0 else 'above'}"


def _interval(one: Difference, metric: Metric) -> str:
    low, high = (f"{end:+.{metric.digits}f}" for end in (one.low, one.high))
    p = f"={_SPACE}{one.p_holm:.3f}" if one.p_holm >= 0.0005 else f"<{_SPACE}0.001"
    return f" (95{_SPACE}%: {low} to {high}, p{_SPACE}{p})"


def _name(way: str) -> str:
    space, colon, rule = way.rpartition(": ")
    return f"{rule} by {space}" if colon else rule


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
