"""A comparison of selections: its parts, what is refused, and its page against its records."""

import csv
import json
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from zsg_jax.config import flatten
from zsg_jax.config_selection import selection_config
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.workflows import selection
from zsg_jax.workflows.study_data import open_pool

SMALL = {
    "data.rewrites.train_families": ("repeat-2:abcdef", "free-4"),
    "data.rewrites.test_families": ("period-2:abcdef", "free-3"),
    "data.rewrites.rules": 8,
    "data.rewrites.samples": 5,
    "data.rewrites.test_rules": 4,
    "data.rewrites.test_samples": 3,
    "grid.spaces": ("hashing",),
    "grid.rules": ("targets",),
    "grid.budgets": (16,),
    "grid.seeds": (0, 1),
    "training.batch_size": 8,
    "training.checkpoint_every": 1,
    "model.pretraining.steps": 2,
    "model.pretraining.batch_size": 4,
    "logging": (),
}


@pytest.fixture
def make(small_model, monkeypatch):
    """Makes a config of few and small parts, of which no arrangement is explained."""
    monkeypatch.setattr(
        "zsg_jax.workflows.study_orders.explainer", lambda *given: lambda *made: None
    )

    def config(**changes):
        made = selection_config()
        made.update_from_flattened_dict(SMALL | {"model.size": small_model} | changes)
        return made

    return config


def run(config, workdir):
    return selection.run(config, workdir, command="python -m zsg_jax.main <here>")


def records(workdir):
    """Every run's records, without clock readings."""
    clocks = ("seconds", "data_wait", "tokens_per_second", "mfu")
    found = {}
    for path in sorted(workdir.rglob("metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{key: one[key] for key in one if key not in clocks} for one in lines]
        found[str(path.relative_to(workdir))] = kept
    return found


def part(workdir, start):
    (found,) = (workdir / "studies").glob(f"{start}*")
    return found


def opened(config, folder):
    """The pool of the first of a comparison's studies."""
    with ExitStack() as stack:
        part = selection.study_config(config, selection.read(config)[0])
        return open_pool(part, folder / "pool", stack)[1]


def test_targets_are_split_by_task_and_seed(make, tmp_path):
    pool = opened(make(), tmp_path / "a")
    tasks = np.array(pool.test.task_names)
    assert sorted([*pool.aimed, *pool.scored]) == list(range(len(pool.test))) == list(range(24))
    for task in set(tasks):
        assert (tasks[pool.aimed] == task).sum() == (tasks[pool.scored] == task).sum() == 6
    assert np.array_equal(opened(make(), tmp_path / "b").scored, pool.scored)
    other = opened(make(**{"arrangement.seed": 1}), tmp_path / "c")
    assert not np.array_equal(other.scored, pool.scored)
    third = opened(make(**{"data.report_fraction": 0.25}), tmp_path / "d")
    assert len(third.scored) == 6


def test_a_part_for_every_space_and_budget_and_one_of_what_needs_no_space(make):
    rules = ("targets", "diverse-N", "score-ascending:quality", "tmta-min+folds-2")
    parts = selection.read(
        make(
            **{
                "grid.spaces": ("hashing", "states:start"),
                "grid.rules": rules,
                "grid.budgets": (8, 32),
            }
        )
    )
    assert [(one.space, one.budget) for one in parts] == [
        *(("", 32), ("hashing", 32), ("states:start", 32)),
        *(("", 8), ("hashing", 8), ("states:start", 8)),
    ]
    assert len({one.folder for one in parts}) == 6
    assert parts[0].names == {
        "random": {0: "random@0", 1: "random@1"},
        "score-ascending:quality": {
            seed: f"score-ascending:quality+first-32+window-32@{seed}" for seed in (0, 1)
        },
    }
    assert list(parts[1].names) == ["targets", "diverse-N", "tmta-min+folds-2"]
    assert parts[1].names["diverse-N"][1] == "diverse-32+first-32+window-32@1"
    kept = selection.read(make(**{"grid.shuffle": False}))
    assert kept[1].names == {"targets": {0: "targets+first-16", 1: "targets+first-16"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid.spaces": ()}, r"grid\.spaces=\(\) must be different values"),
        ({"grid.spaces": ("hashing", "hashing")}, r"grid\.spaces=.* must be different"),
        ({"grid.spaces": ("hashin",)}, r"grid\.spaces: 'hashin': there is no 'hashin'"),
        ({"grid.spaces": ("states:no/such,layer=1",)}, "there is no 'no/such'"),
        ({"grid.spaces": ("states:start,layr=1",)}, "did you mean layer"),
        (
            {"grid.spaces": ("states:start",), "model.pretraining.steps": 0},
            "its weights are random",
        ),
        ({"grid.rules": ("target",)}, r"grid\.rules: 'target' is unknown.*did you mean targets"),
        ({"grid.rules": ("random",)}, "is what all rules are compared with"),
        ({"grid.rules": ("tmta-rt@3",)}, r"the seed is that of the run, by grid\.seeds"),
        ({"grid.budgets": (12,)}, r"grid\.budgets: 12 is no multiple of training\.batch_size=8"),
        ({"grid.seeds": (-1,)}, r"grid\.seeds=\(-1,\) must be whole numbers from 0"),
        ({"data.report_fraction": 0.0}, r"report_fraction=0\.0: targets that steered"),
        ({"training.warmup_steps": 2}, r"warmup_steps=2 must be at least 0 and under the 2 steps"),
        ({"training.epochs": ("anew@1",)}, "what is selected stays"),
        ({"model.dtype": "float31"}, "choose one of float32"),
        (
            {"grid.shuffle": False, "model.init_from": "x", "model.pretraining.steps": 0},
            "would train 'targets' 2 times alike",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(make, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        run(make(**changes), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_budget_beyond_the_pool_trains_nothing_and_binds_nobody(make, tmp_path):
    with pytest.raises(UserError, match=r"grid\.budgets: 88 rows cannot be selected of 80"):
        run(make(**{"grid.budgets": (16, 88), "model.pretraining.steps": 0}), tmp_path / "w")
    assert not list((tmp_path / "w").rglob("runs"))
    with pytest.raises(UserError, match="88 rows cannot be selected of 64"):
        run(make(**{"grid.budgets": (88,), "data.rewrites.samples": 4}), tmp_path / "w")


def test_one_seed_and_one_scored_row_are_told_before_any_run(make, tmp_path):
    rows = [{"prompt": f"say {i}", "completion": "a b"} for i in range(18)]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "train.jsonl").write_text("".join(lines[:16]))
    (tmp_path / "test.jsonl").write_text("".join(lines[16:]))
    sides = {f"data.{side}": str(tmp_path / f"{side}.jsonl") for side in ("train", "test")}
    few = {"grid.seeds": (0,), "grid.budgets": (8,), "model.pretraining.steps": 0}
    config = make(**sides, tokenizer="bytes", **few)
    with pytest.raises(UserError, match="one seed and the only target"):
        run(config, tmp_path / "workdir")
    assert not list((tmp_path / "workdir").rglob("runs"))


def test_a_folder_that_is_no_encoder_is_told_before_anything_is_trained(make, tmp_path):
    (tmp_path / "none").mkdir()
    for space in (str(tmp_path / "none"), f"states:{tmp_path / 'none'}"):
        with pytest.raises(UserError, match=r"config\.json"):
            run(make(**{"grid.spaces": ("hashing", space)}), tmp_path / "w")
        assert not list((tmp_path / "w").rglob("pretraining"))


@pytest.mark.ci
@pytest.mark.slow
def test_killed_at_several_places_it_writes_the_same_numbers(make, commands, tmp_path):
    config = make(**{"grid.seeds": (0,)})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(flatten(config)))
    run(config, tmp_path / "whole")
    places = [("writing", 12), ("mid-row", 3), ("saved", 3)]
    several = ((tmp_path / "killed", file, *place) for place in (*places, ("none", 0)))
    *deaths, last = commands("killed", *several, cwd=Path(__file__).parents[1] / "faults")
    assert last[0] == 0, last[2]
    assert [one[0] for one in deaths] == [-signal.SIGKILL] * len(places)
    assert records(tmp_path / "killed") == records(tmp_path / "whole")
    seconds = {"seconds"}
    tables = []
    for name in ("killed", "whole"):
        with (tmp_path / name / "report" / "results.csv").open() as table:
            tables.append(
                [
                    {k: v for k, v in one.items() if k not in seconds}
                    for one in csv.DictReader(table)
                ]
            )
    assert tables[0] == tables[1]


@pytest.mark.ci
@pytest.mark.slow
def test_a_grid_does_not_grow_by_other_rows(make, tmp_path):
    rows = [{"prompt": f"say {i}", "completion": "a b"} for i in range(20)]
    lines = [json.dumps(row) + "\n" for row in rows]
    (tmp_path / "test.jsonl").write_text("".join(lines[16:]))
    sides = {f"data.{side}": str(tmp_path / f"{side}.jsonl") for side in ("train", "test")}
    fixed = {**sides, "tokenizer": "bytes", "model.pretraining.steps": 0, "grid.seeds": (0,)}

    def again(changed, **grid):
        (tmp_path / "train.jsonl").write_text("".join(changed))
        run(make(**fixed, **{"grid.budgets": (8,)} | grid), tmp_path / "w")

    again(lines[:16])
    first, changed = records(tmp_path / "w"), [lines[0].replace("a b", "b a"), *lines[1:16]]
    with pytest.raises(UserError, match="studies/start: the training instances changed"):
        again(changed, **{"grid.budgets": (8, 16)})
    assert records(tmp_path / "w") == first
    shutil.rmtree(tmp_path / "w" / "studies" / "start")
    with pytest.raises(UserError, match="the training instances changed"):
        again(changed)
    shutil.rmtree(tmp_path / "w" / "studies" / "start")
    again(lines[:16])


@pytest.mark.ci
@pytest.mark.slow
def test_budgets_that_went_by_other_numbers_are_not_compared(make, tmp_path):
    fixed = {"tokenizer": "bytes", "model.pretraining.steps": 0, "grid.seeds": (0,)}
    fixed |= {"grid.spaces": ("hashing",)}

    def again(shift, *budgets, rules=("round-robin", "score-descending:quality")):
        rows = [
            {"prompt": f"say {i}", "completion": "a", "quality": (i + shift) % 7} for i in range(20)
        ]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        sides = {f"data.{side}": str(tmp_path / "rows.jsonl") for side in ("train", "test")}
        grid = {"grid.budgets": budgets, "grid.rules": rules}
        run(make(**sides, **fixed, **grid), tmp_path / "w")

    # A rule that looks at no numbers is bound to none.
    again(3, 8, rules=("round-robin",))
    again(0, 8)
    trained = records(tmp_path / "w")
    with pytest.raises(UserError, match=r"the numbers 'quality' .* changed since"):
        again(1, 8, 16)
    assert records(tmp_path / "w") == trained


@pytest.mark.ci
@pytest.mark.slow
def test_budgets_by_other_shares_of_sets_are_not_compared(make, tmp_path):
    for side in ("train", "one", "two"):
        rows = [{"prompt": f"say {side} {i}", "completion": "a"} for i in range(20)]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))

    def again(shares, *budgets):
        sets = [
            {"path": f"{name}.jsonl", "share": share}
            for name, share in zip(("one", "two"), shares, strict=True)
        ]
        (tmp_path / "both.mix.json").write_text(json.dumps({"sources": sets}))
        given = {"data.train": str(tmp_path / "train.jsonl")}
        given |= {"data.test": str(tmp_path / "both.mix.json"), "tokenizer": "bytes"}
        given |= {"model.pretraining.steps": 0, "grid.seeds": (0,), "grid.budgets": budgets}
        run(make(**given, **{"grid.spaces": ("hashing",)}), tmp_path / "w")

    again((1, 3), 8)
    trained = records(tmp_path / "w")
    with pytest.raises(UserError, match="the shares of the target sets changed since"):
        again((3, 1), 8, 16)
    assert records(tmp_path / "w") == trained
    again((1, 3), 8, 16)


@pytest.mark.ci
@pytest.mark.slow
def test_a_comparison_from_config_to_page(make, tmp_path, capfd):
    workdir = tmp_path / "w"
    page = run(make(), workdir)
    assert page == workdir / "report" / "index.html"
    first = records(workdir)
    assert len([name for name in first if "/runs/" in name]) == 2 * 2

    # A larger grid trains what is new alone, and a finished one is only drawn again.
    larger = {
        "grid.seeds": (0, 1, 2),
        "grid.rules": ("targets", "min-nft"),
        "grid.spaces": ("hashing", "states:start"),
    }
    run(make(**larger), workdir)
    grown = records(workdir)
    assert {name: grown[name] for name in first} == first
    assert len([name for name in grown if "/runs/" in name]) == 3 * (1 + 2 * 2)
    capfd.readouterr()
    before = page.read_bytes()
    run(make(**larger), workdir)
    assert records(workdir) == grown
    assert page.read_bytes() == before
    assert capfd.readouterr().err == ""
    with (page.parent / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    ways = [(space, rule) for space in ("hashing", "states:start") for rule in larger["grid.rules"]]
    assert [(one["space"], one["rule"]) for one in rows] == [("", "random"), *ways]

    # Each number again from what the runs have written.
    def ends(name, arrangement):
        folder = part(workdir, name) / "runs"
        runs = [
            grown[str((folder / arrangement.format(k)).relative_to(workdir) / "metrics.jsonl")]
            for k in larger["grid.seeds"]
        ]
        return np.array([one[-1]["losses"] for one in runs])

    random = ends("no-space", "random@{0}-seed{0}")
    for row, (space, rule) in zip(rows[1:], ways, strict=True):
        name = space.partition(":")[0]
        values = ends(name, f"{rule}+first-16+window-16@{{0}}-seed{{0}}")
        assert float(row["mean"]) == pytest.approx(values.mean(), rel=1e-6)
        assert float(row["std"]) == pytest.approx(values.mean(axis=1).std(ddof=1), rel=1e-6)
        assert float(row["difference"]) == pytest.approx((values - random).mean(), rel=1e-5)
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
        sides = part(workdir, name) / "embeddings"
        stored = sum(path.stat().st_size for path in sides.rglob("*.npy"))
        assert int(row["bytes"]) == stored
        assert float(row["seconds"]) > 0

    # The rows are those that a naive round robin over the targets to aim at takes.
    order = np.load(
        part(workdir, "hashing") / "arrangements" / "targets+first-16+window-16@1" / "order.npy"
    )
    pool, encoder = opened(make(), tmp_path), HashingEncoder()
    cosines = (
        encoder.encode([pool.test[i].text for i in pool.aimed])
        @ encoder.encode([one.text for one in pool.train]).T
    )
    taken = []
    while len(taken) < 16:
        row = cosines[len(taken) % len(cosines)].copy()
        row[taken] = -np.inf
        taken.append(int(row.argmax()))
    assert sorted(order) == sorted(taken)

    # What is left out stays, and a key beside the grid makes it another comparison.
    run(make(), workdir)
    assert records(workdir) == grown
    with pytest.raises(UserError, match=r"training\.learning_rate is 0\.003 there, 0\.1 here"):
        run(make(**{"training.learning_rate": 0.1}), workdir)

    # What the spaces took stands on the page too.
    cost = part(workdir, "hashing") / "embeddings" / "cost.json"
    cost.write_text(cost.read_text().replace('"bytes": ', '"bytes": 1'))
    with pytest.raises(UserError, match=r"embeddings/cost\.json: is damaged"):
        run(make(), workdir)
    cost.unlink()
    run(make(), workdir)


@pytest.mark.ci
@pytest.mark.slow
def test_budgets_by_a_space_that_has_changed_are_not_compared(make, tmp_path, monkeypatch):
    fixed = {"model.pretraining.steps": 0, "grid.seeds": (0,)}
    run(make(**fixed, **{"grid.budgets": (8,)}), tmp_path / "w")
    monkeypatch.setattr("zsg_jax.similarity.encoders.hashing.SCHEME", "another")
    with pytest.raises(UserError, match="another hashing"):
        run(make(**fixed, **{"grid.budgets": (8, 16)}), tmp_path / "w")
    # Before the larger budget was trained.
    assert not [*(tmp_path / "w" / "studies").glob("*-16")]
    run(make(**fixed, **{"grid.budgets": (8,)}), tmp_path / "w")
