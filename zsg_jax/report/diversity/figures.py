"""The figures of the instruction-diversity study, in the style of the others."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from zsg_jax.report.curves import even_places
from zsg_jax.report.diversity.published import TRANSITION
from zsg_jax.report.diversity.results import MASTERED, MEASURES, PHASES, Group, rising
from zsg_jax.report.drawing import STYLE, Captioned, Line, Panel, draw, looks, panels_of
from zsg_jax.report.hover import tell_boxes, tell_points
from zsg_jax.statistics.transition import logistic

# Below, between and above: told apart without colour too.
_PHASE_COLORS = ("#eeeeee", "#E69F00", "#0072B2")
_MOST_LINES = 8
MOST_GROUPS = 4  # whose course along training is drawn


def _rules_axis(ax: Axes, rules: Sequence[int]) -> None:
    ax.set_xscale("log")
    ax.set_xticks(rules, [f"{one:,}" for one in rules], rotation=35, ha="right", fontsize=8)
    ax.minorticks_off()
    ax.set_xlabel("rules trained on (I)")


@rc_context(STYLE)
def by_rules(groups: Sequence[Group]) -> Captioned:
    """Exact match on unseen rules against I: seeds, means, and the fitted transition."""
    figure, (ax,) = panels_of(3.4)
    measure = rising(groups)
    which = "" if measure == "unseen_exact" else ", of rows with an application"
    style = looks(group.title for group in groups)
    every = sorted({rules for group in groups for rules in group.records})
    for group, (name, look) in zip(groups, style.items(), strict=True):
        last = group.last(measure)
        n = sorted(last)
        for one in n:
            seeds = list(last[one].values())
            ax.plot([one] * len(seeds), seeds, "o", ms=3, color=look.color, alpha=0.5, mew=0)
        means = [np.mean(list(last[one].values())) for one in n]
        told = zip(n, means, strict=True)
        tell_points(ax, n, means, [f"{name}, {one:,} rules: {mean:.3f}" for one, mean in told])
        fitted = group.transition(measure)
        ax.plot(
            n, means, marker="o", ms=5, color=look.color, ls="" if fitted else look.dash, label=name
        )
        if fitted is not None:
            fine = np.geomspace(n[0], n[-1], 200)
            ax.plot(fine, logistic(fine, *fitted[:3]), color=look.color, ls=look.dash)
            if fitted.low is not None and fitted.high is not None and len(groups) == 1:
                ax.axvspan(fitted.low, fitted.high, color=look.color, alpha=0.12, lw=0)
    ax.axvspan(*TRANSITION, color="#777777", alpha=0.18, lw=0, label="the paper's transition")
    _rules_axis(ax, every)
    ax.set_ylim(-0.03, 1.03)
    ax.set_ylabel("exact match on unseen rules" + which.replace(", ", ",\n"))
    ax.legend(fontsize=8, loc="upper left")
    return Captioned(
        figure,
        "Accuracy on unseen rules",
        f"Share of whole answers that are right{which}, at the last step. Large points: means "
        "over seeds; small ones: seeds. Lines: the fitted transition where there is one. Grey: "
        "where the paper found its transition, for its own model and lengths."
        + (" Shaded: where the midpoint may be (95 % over seeds)." if len(groups) == 1 else ""),
        "Accuracy on unseen rules rises with the number of rules trained on, from left to right.",
    )


def curves(group: Group) -> Captioned:
    """What is measured of a group along training, a line for each I, or for some of many."""
    every = sorted(group.records)
    rules = [every[i] for i in even_places(len(every), _MOST_LINES)]
    few = f" Of {len(every)} I {len(rules)} are shown." if len(rules) < len(every) else ""
    style = looks(f"{one:,} rules" for one in rules)
    panels = []
    for measure in ("unseen_exact", "seen_exact", "unseen_copied", "unseen_replaced"):
        lines = {}
        for one, name in zip(rules, style, strict=True):
            steps, values = group.curve(one, measure)
            if np.isfinite(values).all():
                deviation = values.std(axis=0, ddof=1) if len(values) > 1 else None
                lines[name] = Line(steps, values.mean(axis=0), deviation)
        panels.append(Panel("share right", MEASURES[measure], lines, from_zero=True))
    return Captioned(
        draw(panels, style, columns=2, height=1.9),
        f"Along training{f': {group.label}' if group.label else ''}",
        "Whole answers to unseen and to trained rules, and the letters of answers to unseen rules, "
        "given those before: those copied from z, and those of y. Bands: ± standard deviation "
        f"over seeds.{few}",
        "Four panels: shares of right answers and letters against steps, a line for each I shown.",
    )


@rc_context(STYLE)
def phases(groups: Sequence[Group]) -> Captioned:
    """Which I memorizes and which generalizes, at which step."""
    few, every = "", len(groups)
    groups = groups[:MOST_GROUPS]
    if every > len(groups):
        few = f" Here and below are the first {len(groups)} of {every}; curves.csv has all."
    figure, axes = panels_of(1.3 + 0.2 * max(len(one.records) for one in groups), len(groups))
    for ax, group in zip(axes, groups, strict=True):
        steps, rules, phase = group.phases()
        edges = np.append(steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1)
        ax.pcolormesh(
            edges,
            np.arange(len(rules) + 1),
            phase,
            cmap=ListedColormap(_PHASE_COLORS),
            vmin=0,
            vmax=2,
            edgecolors="white",
            linewidth=0.5,
        )
        for row, one in enumerate(rules):
            up = np.tile([row, row + 1], (len(steps), 1))
            kinds_of = [PHASES[int(kind)] for kind in phase[row]]
            told = zip(steps, kinds_of, strict=True)
            across = np.column_stack([edges[:-1], edges[1:]])
            tell_boxes(ax, across, up, [f"{one:,} rules, step {at:,}: {k}" for at, k in told])
        ax.set_yticks(np.arange(len(rules)) + 0.5, [f"{one:,}" for one in rules], fontsize=8)
        ax.grid(False)
        ax.set_xlabel("step")
        ax.set_title(group.title, fontsize=8.5)
    axes[0].set_ylabel("rules (I)")
    colors = dict(zip(PHASES, ("grey", "orange", "blue"), strict=True))
    return Captioned(
        figure,
        "Memorizes, generalizes",
        "; ".join(f"{colors[name]}: {name}" for name in PHASES)
        + f". Memorizes: at least {MASTERED:.0%} of the answers to trained rules are right, and "
        "fewer of those to unseen ones. Generalizes: as many of those to unseen rules. Means over "
        f"seeds.{few}",
        "A strip for every number of rules: whether it memorizes or generalizes, step by step.",
    )


@rc_context(STYLE)
def heatmap(groups: Sequence[Group], axis: str) -> Captioned:
    """Accuracy on unseen rules by I and another axis."""
    rules = sorted({one for group in groups for one in group.records})
    table = np.full((len(groups), len(rules)), np.nan)
    for i, group in enumerate(groups):
        for one, by_seed in group.last("unseen_exact").items():
            table[i, rules.index(one)] = np.mean(list(by_seed.values()))
    figure, ax = _in_colors(table, [group.label for group in groups], [f"{n:,}" for n in rules])
    ax.set_xlabel("rules trained on (I)")
    return Captioned(
        figure,
        f"Rules × {axis.replace('_', ' ')}",
        "Exact match on unseen rules at the last step, means over seeds.",
        f"A table in colours: accuracy on unseen rules by number of rules and by {axis}.",
    )


@rc_context(STYLE)
def by_kind(groups: Sequence[Group]) -> Captioned | None:
    """Accuracy on unseen rules by their family and k; None where they have one kind."""
    found = kinds(groups)
    columns = sorted({kind for by in found.values() for kind in by}, key=_family_and_k)
    if len(columns) < 2:
        return None
    table = np.array([[by.get(kind, np.nan) for kind in columns] for by in found.values()])
    figure, ax = _in_colors(table, list(found), columns)
    ax.set_xlabel("family of the unseen rule, and how often its base is repeated (k)")
    return Captioned(
        figure,
        "By family and k",
        "Exact match on unseen rules at the last step, means over seeds.",
        "A table in colours: accuracy by the kind of the unseen rule, a line for each cell.",
    )


def _family_and_k(kind: str) -> tuple[str, int]:
    family, _, k = kind.partition(":")
    return family, int(k or 0)


def _in_colors(
    table: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> tuple[Figure, Axes]:
    """Shares (rows, columns) as colours with their numbers, nothing where there is none."""
    figure, (ax,) = panels_of(1.1 + 0.36 * len(rows))
    ax.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            ax.text(
                j,
                i,
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value > 0.6 else "#222222",
            )
    ax.set_xticks(range(len(columns)), columns, fontsize=8)
    ax.set_yticks(range(len(rows)), rows, fontsize=8)
    ax.grid(False)
    return figure, ax


@rc_context(STYLE)
def applications(groups: Sequence[Group]) -> Captioned | None:
    """Rows with an application, without, and together, against I; None where all have one."""
    names = {
        "unseen_exact_applied": "with an application",
        "unseen_exact_no_op": "without",
        "unseen_exact": "together",
    }
    if not any(group.last("unseen_exact_no_op") for group in groups):
        return None
    figure, axes = panels_of(2.6, len(names))
    style = looks(group.title for group in groups)
    every = sorted({rules for group in groups for rules in group.records})
    for ax, (measure, title) in zip(axes, names.items(), strict=True):
        for group, (name, look) in zip(groups, style.items(), strict=True):
            last = group.last(measure)
            means = [np.mean(list(last[one].values())) for one in sorted(last)]
            ax.plot(
                sorted(last), means, marker="o", ms=3.5, color=look.color, ls=look.dash, label=name
            )
            told = zip(sorted(last), means, strict=True)
            texts = [f"{name}, {one:,} rules, {title}: {mean:.3f}" for one, mean in told]
            tell_points(ax, sorted(last), means, texts, name)
        _rules_axis(ax, every)
        ax.set_ylim(-0.03, 1.03)
        ax.set_title(title, fontsize=8.5)
    axes[0].set_ylabel("exact match on unseen rules")
    axes[0].legend(fontsize=7)
    return Captioned(
        figure,
        "Rows with and without an application",
        "Of unseen rules: rows whose string holds x, rows whose string does not (no-ops, to be "
        "answered unchanged), and both. The average alone can look like partial generalization.",
        "Three panels of accuracy against I: a rule applies, none does, both together.",
    )


def kinds(groups: Sequence[Group]) -> Mapping[str, Mapping[str, float]]:
    """Accuracy by kind of unseen rule: group and I → kind → mean over seeds."""
    found: dict[str, dict[str, float]] = {}
    for group in groups:
        for rules, by_seed in sorted(group.records.items()):
            last = [records[-1]["unseen_by_kind"] for records in by_seed.values()]
            found[group.named(rules)] = {
                kind: float(np.mean([one[kind] for one in last])) for kind in last[0]
            }
    return found


@rc_context(STYLE)
def by_axis(groups: Sequence[Group], axis: str) -> Captioned:
    """Accuracy on unseen rules against the values of another axis, a line for each I."""
    figure, (ax,) = panels_of(3.0)
    rules = sorted({one for group in groups for one in group.records})
    values = [group.values[axis] for group in groups]
    for one, look in zip(rules, looks(map(str, rules)).values(), strict=True):
        found = [group.last("unseen_exact").get(one, {}) for group in groups]
        means = [float(np.mean(list(by.values()))) if by else np.nan for by in found]
        ax.plot(
            range(len(values)),
            means,
            marker="o",
            color=look.color,
            ls=look.dash,
            label=f"{one:,} rules",
        )
        told = zip(values, means, strict=True)
        texts = [f"{one:,} rules, {value}: {mean:.3f}" for value, mean in told]
        tell_points(ax, range(len(values)), means, texts, f"{one:,} rules")
    ax.set_xticks(range(len(values)), [str(value) for value in values], fontsize=8)
    ax.set_xlabel(axis.replace("_", " "))
    ax.set_ylabel("exact match on unseen rules")
    ax.set_ylim(-0.03, 1.03)
    ax.legend(fontsize=8)
    return Captioned(
        figure,
        f"By {axis.replace('_', ' ')}",
        "Exact match on unseen rules at the last step, means over seeds.",
        f"Accuracy on unseen rules against {axis}, a line for each number of rules.",
    )
