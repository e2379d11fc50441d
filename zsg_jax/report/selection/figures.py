"""The figures of a comparison of selections: what each way gains over rows at random, and costs."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from zsg_jax.report.differences import p_words, signed_interval, told_apart
from zsg_jax.report.drawing import STYLE, Captioned, Look, looks, panels_of, shorten
from zsg_jax.report.hover import tell_points
from zsg_jax.report.metrics import METRICS
from zsg_jax.report.selection.results import Measured, Results, way_name
from zsg_jax.statistics.paired import Difference

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LEAST = 0.001  # seconds, as they are kept


def _interval(ax: Axes, one: Difference, y: float, look: Look) -> None:
    """A difference with its interval, filled where it is told apart."""
    ax.plot([one.low, one.high], [y, y], color=look.color, lw=1.6)
    face = look.color if told_apart(one) else "white"
    ax.plot([one.mean], [y], "o", ms=6, color=look.color, mfc=face, mew=1.4)


@rc_context(STYLE)
def gains(results: Results, title: str, measured: Measured) -> Captioned:
    """The difference of every way to rows at random, a panel for each budget."""
    metric, ways = METRICS[measured.name], list(measured.differences)
    style = looks(ways)
    figure, axes = panels_of(0.9 + 0.3 * len(ways), len(results.budgets), sharey=True)
    for ax, budget in zip(axes, results.budgets, strict=True):
        for y, way in enumerate(ways):
            one = measured.differences[way][budget]
            _interval(ax, one, y, style[way])
            told = f"{way_name(way)}: {one.mean:+.{metric.digits}f}"
            told += f" ({signed_interval(one, metric.digits)}), p {p_words(one.p_holm)}"
            tell_points(ax, [one.mean], [y], [told])
        ax.axvline(0, color="#777777", lw=1, ls=(0, (4, 3)), zorder=0.5)
        ax.set_title(f"{budget:,} rows", fontsize=8.5)
        ax.set_xlabel(f"{metric.label} less random's", fontsize=8.5)
        ax.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(ways)), [shorten(way_name(way), 44) for way in ways], fontsize=8)
    axes[0].invert_yaxis()
    better = "left" if metric.best is min else "right"
    return Captioned(
        figure,
        f"{title}: each way against rows at random",
        f"{metric.meaning} Of the targets that steered nothing, at the last step, less that of as "
        f"many rows at random: to the {better} is better. Lines: 95\N{NO-BREAK SPACE}% intervals "
        "by seeds and targets. Filled: told apart from random, p\N{NO-BREAK SPACE}"
        "≤\N{NO-BREAK SPACE}0.05 by Holm's rule for all that are drawn.",
        f"For each space and rule the difference in {metric.label} to random, with its interval.",
    )


@rc_context(STYLE)
def costs(results: Results) -> Captioned | None:
    """The gain of every way beside what its space took; None for fewer than two spaces."""
    if len(results.costs) < 2:
        return None
    measured = results.measured[0]
    metric, spaces = METRICS[measured.name], list(results.costs)
    rules = list(dict.fromkeys(cell.rule for cell in results.cells if cell.space))
    style = looks(spaces)
    shapes = {rule: _MARKERS[i % len(_MARKERS)] for i, rule in enumerate(rules)}
    figure, (ax,) = panels_of(3.0)
    wide = _seconds_axis(ax, [cost.seconds for cost in results.costs.values()])
    for way, one in measured.pooled.items():
        cost = results.cost(way)
        if cost is not None:
            space, _, rule = way.rpartition(": ")
            told = f"{way_name(way)}: {cost.seconds:,.1f} s, {one.mean:+.{metric.digits}f}"
            # Side by side, or rules that are level would hide one another.
            beside = 0.03 * (rules.index(rule) - (len(rules) - 1) / 2)
            x, y = [max(cost.seconds, _LEAST) * wide**beside], [one.mean]
            tell_points(ax, x, y, [told])
            color = style[space].color
            face = color if told_apart(one) else "white"
            ax.plot(x, y, shapes[rule], ms=7, color=color, mfc=face, alpha=0.8)
    key = [Line2D([], [], ls="", marker="o", color=look.color) for look in style.values()]
    key += [
        Line2D([], [], ls="", marker=one, color="#555555", mfc="white") for one in shapes.values()
    ]
    better = "Below" if metric.best is min else "Above"
    ax.axhline(0, color="#777777", lw=1, ls=(0, (4, 3)), zorder=0.5)
    ax.set_xlabel("seconds to embed the pool and the targets")
    ax.set_ylabel(f"{metric.label} less random's")
    named = [shorten(one, 44) for one in (*style, *shapes)]
    figure.legend(key, named, fontsize=8, loc="outside right center")
    return Captioned(
        figure,
        "Gain and cost",
        f"What a space took against the difference in {metric.label} to rows at random, mean over "
        f"budgets; the rules of a space side by side. Filled: told apart from random. {better} the "
        "dashed line is better.",
        "Points by seconds and gain, a colour for each space and a shape for each rule.",
    )


def _seconds_axis(ax: Axes, seconds: Sequence[float]) -> float:
    """Makes the level axis one of seconds, and gives how many times the least the most is."""
    low, high = (max(end, _LEAST) for end in (min(seconds), max(seconds)))
    wide = max(high / low, 2.0)
    ax.set_xscale("log")
    ax.set_xlim(low / wide**0.2, high * wide**0.2)
    # Of a few times the least, round numbers; of more, those of each decade that have room.
    subs = (1, 2, 5) if wide < 30 else (1,)
    ax.xaxis.set_major_locator(LogLocator(subs=subs) if wide > 6 else MaxNLocator(4))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.tick_params(labelsize=8)
    return wide
