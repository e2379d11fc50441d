"""Which arrangements can be told apart: paired differences of a measure, example by example."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from zsg_jax.report.examples import Measured
from zsg_jax.report.metrics import Metric
from zsg_jax.statistics.paired import Difference, mcnemar, paired_differences

_DRAW = re.compile(r"@\d+$")  # of METHOD@SEED, the seed of a shuffle
_MIN_TASKS = 10  # from so many on, whole tasks are the units: fewer say little of other tasks

KEYS = (
    "of each measure and step, for every pair of arrangements, that of `first` less that of "
    "`second`: `mean`, by Student's t over seeds and test instances its 95 % interval from `low` "
    "to `high` and `p`, `p_holm` (for all pairs of the step); `detectable` is the smallest "
    "difference that would show in four of five cases; `mcnemar`, of what is right or wrong, the "
    "exact p of examples that one has right and the other wrong"
)


class Compared(NamedTuple):
    """A paired difference, and McNemar's p where examples are right or wrong.

    Attributes:
        by_task: whether whole tasks were the units, not single examples.
    """

    difference: Difference
    mcnemar: float | None
    by_task: bool = False


def differences(
    measured: Measured,
    pairs: Mapping[int, Sequence[tuple[str, str]]],
    *,
    right_or_wrong: bool = False,
) -> dict[int, list[Compared]]:
    """The paired differences at each step of `pairs` where their runs measured the same examples.

    Seeds count too, those that all arrangements of a step have. The pairs of a step are corrected
    for one another.
    """
    found: dict[int, list[Compared]] = {}
    for step, of_step in pairs.items():
        values, tasks = measured.at(step, {name for pair in of_step for name in pair})
        if len(values) < 2 or next(iter(values.values())).size < 2:
            continue
        clusters = units(tasks)
        found[step] = [
            Compared(
                one,
                mcnemar(values[one.first], values[one.second]) if right_or_wrong else None,
                clusters is not None,
            )
            for one in paired_differences(values, of_step, clusters=clusters)
        ]
    return found


def units(tasks: Sequence[str] | None) -> Sequence[str] | None:
    """The task of every example, where whole tasks stand for others; None: examples do."""
    return tasks if len(set(tasks or ())) >= _MIN_TASKS else None


def unit(found: Mapping[int, Iterable[Compared]]) -> str:
    """What stands for others in the differences of a measure, as a sentence has it."""
    by_task = {one.by_task for compared in found.values() for one in compared}
    if len(by_task) == 2:
        return "tasks of instances at some steps, instances at others"
    return "tasks of instances" if by_task == {True} else "instances"


def told_apart(one: Difference) -> bool:
    """Whether a difference is more than chance gives, with all pairs of its step in mind."""
    return one.p_holm <= 0.05 and not one.low <= 0 <= one.high


def same(one: Difference) -> bool:
    """Whether the two do not differ, by any seed or example."""
    return one.mean == one.low == one.high == 0


def p_words(p: float) -> str:
    """What stands behind the letter p: three digits, and for what they would make 0 "< 0.001"."""
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def amount(one: Difference, digits: int) -> str:
    """How far it is from 0, and where: "0.0123 below"."""
    return f"{abs(one.mean):.{digits}f} {'below' if one.mean < 0 else 'above'}"


def interval(one: Difference, digits: int, *, behind_amount: bool, over: str = "") -> str:
    """Its interval in a sentence; `behind_amount`: of what is below 0, how far below."""
    low, high = (-one.high, -one.low) if behind_amount and one.mean < 0 else (one.low, one.high)
    return f"95\N{NO-BREAK SPACE}%{over}: {low:.{digits}f} to {high:.{digits}f}"


def signed_interval(one: Difference, digits: int) -> str:
    """Its interval in a table, "-0.0200 to +0.0100"."""
    return f"{one.low:+.{digits}f} to {one.high:+.{digits}f}"


def sentences(
    found: Mapping[int, Iterable[Compared]], metric: Metric, ends: Mapping[str, int]
) -> list[str]:
    """What the differences of a measure say in words, a sentence a pair, over all its steps.

    `ends`: arrangement → its last step.
    """
    pairs: dict[tuple[str, str], dict[int, Difference]] = {}
    for step, compared in found.items():
        for one in (each.difference for each in compared):
            pairs.setdefault((one.first, one.second), {})[step] = one
    if len(pairs) > 1 and all(same(one) for by_step in pairs.values() for one in by_step.values()):
        which = "that end at the same step " if len(set(ends.values())) > 1 else ""
        return [f"No two {which}differ, in any test instance."]
    return [
        _sentence(by_step, metric.digits, ends[first] if ends[first] == ends[second] else None)
        for (first, second), by_step in pairs.items()
    ]


def luck(found: Mapping[int, Iterable[Compared]], digits: int) -> list[str]:
    """What other draws of a shuffled order come to: a sentence for each step and such order."""
    told = []
    for step, compared in found.items():
        draws: dict[str, list[Difference]] = {}
        for one in (each.difference for each in compared):
            base = _DRAW.sub("", one.first)
            if base == _DRAW.sub("", one.second):
                draws.setdefault(base, []).append(one)
        for base, pairs in draws.items():
            count = len({name for one in pairs for name in (one.first, one.second)})
            most = max(abs(one.mean) for one in pairs)
            told.append(
                f"The luck of a draw: at step {step} the {count} draws of {base} differ by up "
                f"to {most:.{digits}f}; a difference from one of them that is no larger may be no "
                "more than that."
            )
    return told


def _sentence(by_step: Mapping[int, Difference], digits: int, end: int | None) -> str:
    told: list[str] = []
    for step, one in by_step.items():
        at = f"at step {step}" if step != end else f"at the end, step {step},"
        over = "" if one.seeds > 1 else " over the test set alone"
        about = interval(one, digits, behind_amount=told_apart(one), over=over)
        who, both = (one.first, f"{one.first} and {one.second}") if not told else ("it", "they")
        if same(one):
            told.append(f"{at} {both} do not differ")
        elif told_apart(one):
            run = "" if one.seeds > 1 else ", of this one run each"
            told.append(f"{at} {who} is {amount(one, digits)} {one.second}{run} ({about})")
        else:
            inside = one.low <= 0 <= one.high
            held = "" if inside else f", but p {p_words(one.p_holm)} over all pairs"
            told.append(f"{at} {both} cannot be told apart ({about}{held})")
    sentence = "; ".join(told)
    return f"{sentence[0].upper()}{sentence[1:]}."


def as_json(found: Mapping[int, Iterable[Compared]]) -> dict[str, list[dict[str, Any]]]:
    """Step → what `Difference` holds, for every pair, and McNemar's p where there is one."""
    return {
        str(step): [one._asdict() | ({} if p is None else {"mcnemar": p}) for one, p, _ in compared]
        for step, compared in found.items()
    }
