"""The page of a comparison of selections, of records whose differences are known."""

import csv
import json
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from zsg_jax.report import selection
from zsg_jax.report.selection import figures
from zsg_jax.report.selection.results import Cost, Measured, Results
from zsg_jax.statistics.paired import Difference
from zsg_jax.training import finished
from zsg_jax.workdir import layout

SEEDS, TARGETS, BUDGETS = (0, 1, 2, 3, 4), 60, (16, 32)
WAYS = {"": "random", "near": "targets", "far": "targets"}


@pytest.fixture
def make(tmp_path):
    """Writes the records of ways whose losses lie `gaps` from random's, and gives their page."""

    def written(gaps, seeds=SEEDS, exact=False, sets=(), untold=(), **cost):
        rng = np.random.default_rng(1)
        easy, wins = rng.normal(2, 0.3, TARGETS), rng.random(TARGETS)
        workdir, cells = tmp_path / "w", []
        for budget in BUDGETS:
            for space, rule in WAYS.items():
                folder = workdir / "studies" / f"{space}-{budget}"
                of_seeds = {seed: f"{rule}@{seed}" for seed in seeds}
                cells.append(selection.Cell(space, rule, budget, folder, of_seeds))
                for seed, name in of_seeds.items():
                    gap = gaps.get(space, 0.0) + rng.normal(0, 0.02)
                    losses = easy + gap + rng.normal(0, 0.05, TARGETS)
                    right = (wins < 0.5 - gap) if exact else None
                    write_run(layout.run_folder(folder, name, seed), budget // 8, losses, right)
                facts = {"train_rows": 90, "train_tasks": 3, "aimed_rows": 60, "scored_rows": 60}
                tasks = [f"task {one % 2}" for one in range(TARGETS)]
                facts |= {"test_id_tasks": tasks} | ({"test_id_sets": sets} if sets else {})
                (folder / "data.json").write_text(json.dumps(facts))
                (folder / "config.json").write_text(json.dumps({"arrangement.seed": 0}))
                if space in cost and (space, budget) not in untold:
                    (folder / "embeddings").mkdir()
                    told = {"seconds": cost[space], "bytes": 2_000_000}
                    (folder / "embeddings" / "cost.json").write_text(json.dumps(told))
        config = {"data.train": "a", "data.test": "b", "grid.shuffle": True}
        config |= {"training.batch_size": 8, "training.learning_rate": 1e-3}
        (workdir / "config.json").write_text(json.dumps(config))
        return selection.build(workdir, cells, title="Rows", command="python -m zsg_jax.main")

    return written


def write_run(folder, last, losses, right):
    folder.mkdir(parents=True)
    rows = [
        {"step": 0, "kind": "test", "loss": 3.0, "losses": [3.0] * TARGETS},
        {"step": 1, "kind": "train", "loss": 2.5, "seconds": 0.5},
        {"step": last, "kind": "test", "loss": losses.mean(), "losses": losses.tolist()},
    ]
    if right is not None:
        rows[0]["exact_match"], rows[2]["exact_match"] = 0.0, 100 * right.mean()
        told = [
            {"step": last, "id": f"{one}", "task": f"task {one % 2}", "exact_match": 100.0 * won}
            for one, won in enumerate(right.tolist())
        ]
        (folder / "generations.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in told))
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    # Each seed on a machine of its own.
    facts = {"Model": "a small one", "Devices": f"chip {folder.name[-1]}"}
    finished.finish(folder, {"steps": last, "facts": facts})


def table(page):
    with (page.parent / "results.csv").open() as file:
        return list(csv.DictReader(file))


def ends(page, budget, space, field="losses"):
    """(K, N) values at the last step, read from the files again."""
    found = []
    for seed in SEEDS:
        name = f"{WAYS[space]}@{seed}"
        folder = page.parents[1] / "studies" / f"{space}-{budget}" / "runs" / f"{name}-seed{seed}"
        if field == "losses":
            found.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])[field])
        else:
            lines = (folder / "generations.jsonl").read_text().splitlines()
            found.append([json.loads(line)[field] for line in lines])
    return np.array(found)


def test_the_table_is_what_the_records_say_and_the_answer_what_they_show(make, read_page, browse):
    page = make({"near": -0.3, "far": 0.2}, exact=True, near=20.0, far=3.0)
    rows = table(page)
    assert len(rows) == 2 * len(BUDGETS) * len(WAYS)
    for row in rows:
        field = "losses" if row["measure"] == "loss" else row["measure"]
        values = ends(page, row["budget"], row["space"], field)
        assert float(row["mean"]) == pytest.approx(values.mean())
        assert float(row["std"]) == pytest.approx(values.mean(axis=1).std(ddof=1))
        assert row["seeds"] == "5"
        if row["rule"] == "random":
            assert row["difference"] == row["seconds"] == ""
            continue
        gap = values - ends(page, row["budget"], "", field)
        assert float(row["difference"]) == pytest.approx(gap.mean())
        assert float(row["low"]) <= gap.mean() <= float(row["high"])
        assert float(row["p"]) <= float(row["p_holm"])
        # Both budgets' embedding.
        assert float(row["seconds"]) == 2 * {"near": 20.0, "far": 3.0}[row["space"]]
        assert int(row["bytes"]) == 2_000_000
    read = read_page(page)
    read.check()
    said = read.said()
    assert "Which space and rule? targets by near is best." in said
    assert "Is the difference real? Yes: its test loss is 0.3" in said
    assert "Is any worse than rows at random? targets by far." in said
    assert "It is told apart from every other way" in said
    assert "Exact match, 32 rows: targets by near is best" in said
    facts = read.tables[-1]
    assert ["Model", "a small one"] in facts
    assert ["Devices", "; ".join(f"chip {seed} (6 runs)" for seed in SEEDS)] in facts
    assert len(read.drawn()) == 3
    assert len(read.table("results")) == 1 + len(BUDGETS) * len(WAYS)
    # Each way's gain over budgets, beside what its space took.
    gains = {row["space"]: [] for row in rows if row["rule"] != "random"}
    for row in rows:
        if row["measure"] == "loss" and row["rule"] != "random":
            gains[row["space"]].append(float(row["difference"]))
    for space, line in zip(("near", "far"), read.table("answer")[1:], strict=True):
        assert line[0].startswith(f"targets by {space}")
        assert line[1].startswith(f"{np.mean(gains[space]):+.4f}")
        assert line[-2:] == [{"near": "40.0", "far": "6.0"}[space], "2.0"]
    assert "0.000" not in said
    held, errors = browse(page)
    assert errors == []
    assert held.count("<svg") == 3


def test_what_is_level_with_the_best_and_costs_less_is_named(make, read_page):
    page = make({"near": -0.3, "far": -0.3}, near=20.0, far=3.0)
    said = read_page(page).said()
    best, other = ("near", "far") if "targets by near is best" in said else ("far", "near")
    assert f"targets by {other} cannot be told apart from it" in said
    assert ("targets by far, as good, is the cheapest" in said) == (best == "near")


def test_a_space_that_does_not_tell_all_that_it_took_is_not_called_cheap(make, read_page):
    page = make({"near": -0.3, "far": -0.3}, near=20.0, far=30.0, untold=[("near", 16)])
    of_space = {row["space"]: row["seconds"] for row in table(page)}
    assert of_space == {"": "", "near": "", "far": "60"}
    said = read_page(page).said()
    assert "Nothing to embed" not in said
    assert "is the cheapest" not in said


def test_without_a_difference_none_is_claimed(make, read_page):
    said = read_page(make({})).said()
    assert "None is better than as many rows at random" in said
    assert "would be seen in 80" in said
    assert "is best" not in said


def test_each_set_of_targets_is_told_by_itself(make, read_page):
    sets = ["a", "b", "b"] * (TARGETS // 3)
    page = make({"near": -0.3}, sets=sets)
    rows = table(page)
    for row in rows:
        if row["rule"] == "random" or row["measure"] != "loss":
            continue
        of = [not row["target_set"] or row["target_set"] == one for one in sets]
        gap = ends(page, row["budget"], row["space"]) - ends(page, row["budget"], "")
        assert float(row["difference"]) == pytest.approx(gap[:, of].mean())
    assert {row["target_set"] for row in rows} == {"", "a", "b"}
    read = read_page(page)
    read.check()
    assert read.table("sets")[0][2:4] == ["a", "b"]
    assert "Test loss of target set b, 16 rows: targets by near is best" in read.said()


def test_one_seed_gives_no_conclusion(make, read_page):
    said = read_page(make({"near": -0.3}, seeds=(4,))).said()
    assert "One seed: no conclusion." in said
    assert "is best" not in said


def test_a_score_that_is_nowhere_other_differs_nowhere(make, read_page):
    page = make({}, exact=True)
    for row in table(page):
        if row["measure"] == "exact_match" and row["rule"] != "random":
            gap = ends(page, row["budget"], row["space"], "exact_match")
            gap = gap - ends(page, row["budget"], "", "exact_match")
            assert float(row["difference"]) == pytest.approx(gap.mean())


@settings(max_examples=10)
@given(st.lists(st.floats(0, 1e5), min_size=2, max_size=4))
@example([60.0, 71.0])
@example([0.012, 43_000.0])
@example([9465.0, 94645.0])
def test_where_rules_are_level_no_mark_or_label_of_their_costs_hides_another(seconds):
    costs = {f"space {i}": Cost(one, 1) for i, one in enumerate(seconds)}
    rules = ("targets", "tmta-min", "min-nft")
    cells = [selection.Cell(space, rule, 8, Path(), {}) for space in costs for rule in rules]
    level = [0.1, 0.0, 0.2, 0.5, 0.5, 0.3, 5]
    pooled = {cell.way: Difference(cell.way, "random", *level) for cell in cells}
    measured = Measured("loss", {}, {}, pooled, None)
    figure = figures.costs(Results(cells, [0], [measured], {}, costs, {}, 0.0)).figure
    FigureCanvasAgg(figure).draw()
    (ax,) = figure.axes
    boxes = [one.get_window_extent() for one in ax.get_xticklabels() if one.get_text()]
    inside = [box for box in boxes if ax.bbox.x0 <= (box.x0 + box.x1) / 2 <= ax.bbox.x1]
    assert len(inside) > 1
    assert all(a.x1 < b.x0 for a, b in pairwise(sorted(inside, key=lambda box: box.x0)))
    marks = {
        (line.get_color(), line.get_marker()): line
        for line in ax.lines
        if len(line.get_xdata()) == 1
    }
    for one, other in combinations(marks.items(), 2):
        if one[0][0] == other[0][0]:
            (a,), (b,) = (ax.transData.transform(line.get_xydata()) for _, line in (one, other))
            assert abs(a - b)[0] > 7 * figure.dpi / 72
