"""The report of scores: every number follows from the files of records, and the page works."""

import hashlib
import json
import shutil
import statistics

import numpy as np
import pytest

from zsg_jax.evaluation.aggregate import aggregate, aggregate_records
from zsg_jax.evaluation.records import GENERATIONS, SCORES, json_line, read
from zsg_jax.report.build import build
from zsg_jax.report.distributions import rewards_figure
from zsg_jax.report.examples import losses
from zsg_jax.report.page import write_report
from zsg_jax.statistics.paired import mcnemar

NAMES, SEEDS, STEPS, SAMPLES = ("nft", "fft"), (0, 1), (0, 20, 30), (0, 1)
KINDS = {"t1": "Keyword Tagging", "t2": "Word Analogy", "t3": "Word Analogy"}
EVIL = "<script>alert('x')</script>"


def generations(name, seed):
    rng = np.random.default_rng([NAMES.index(name), seed])
    for step in STEPS:
        for number in range(9):
            task = f"t{number % 3 + 1}"
            for sample in SAMPLES:
                rouge = float(np.round(rng.uniform(0, 40) + 2 * step * (name == "nft"), 3))
                yield {
                    "step": step,
                    "params": "0" * 16,
                    "id": f"{EVIL} {number}" if number == 8 else f"row {number}",
                    "task": task,
                    "category": KINDS[task],
                    "sample": sample,
                    "prompt_sha256": "0" * 64,
                    "text": f"{name} says {EVIL} {number} " + "long " * (600 * (number == 0)),
                    "tokens": [1, 2],
                    "ended": "eos",
                    "references": ["one", "two"][: number % 2 + 1],
                    "rouge1": rouge / 2,
                    "rougeL": rouge,
                    "exact_match": 100.0 * (rouge > 50),
                    "exact_match_unicode": 100.0 * (rouge > 45),
                    "reward": rouge - 60,
                }


def choices(name, seed):
    rng = np.random.default_rng([7, NAMES.index(name), seed])
    for step in STEPS[:2]:
        for number in range(6):
            right = 100.0 * bool(rng.integers(2))
            told = {"step": step, "params": "0", "measure": "choices", "id": f"c{number}"}
            yield told | {"task": f"t{number % 2}", "accuracy": right}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_runs):
    """Files of every run, as evaluators write them: folder of (name, seed)."""
    found = {}
    for name, by_seed in make_runs(NAMES, len(SEEDS)).items():
        for seed, tests in by_seed.items():
            folder = found[name, seed] = tmp_path_factory.mktemp(f"{name}-seed{seed}")
            kept = list(generations(name, seed))
            chosen = list(choices(name, seed))
            for file, told in ((GENERATIONS, kept), (SCORES, chosen)):
                (folder / file).write_bytes(b"".join(map(json_line, told)))
            for record in tests:
                if record["kind"] == "test":
                    of_step = [one for one in kept if one["step"] == record["step"]]
                    fields = ["rouge1", "rougeL", "exact_match", "exact_match_unicode", "reward"]
                    record |= aggregate_records(of_step, fields) if of_step else {}
                    of_step = [one for one in chosen if one["step"] == record["step"]]
                    if of_step:
                        values = [one["accuracy"] for one in of_step]
                        record |= aggregate("accuracy", values, [one["task"] for one in of_step])
            lines = b"".join(map(json_line, tests))
            (folder / "metrics.jsonl").write_bytes(lines)
    return found


def files(folders, *names):
    return {
        name: {
            seed: [one for file in names for one in read(folders[name, seed] / file)]
            for seed in SEEDS
        }
        for name in NAMES
    }


def report(folders, where):
    runs = files(folders, "metrics.jsonl")
    scored = files(folders, GENERATIONS, SCORES)
    return write_report(where, runs, {}, {}, scored=scored, window=25, title=EVIL)


@pytest.fixture(scope="module")
def written(folders, tmp_path_factory):
    return report(folders, tmp_path_factory.mktemp("report"))


def by_example(folders, file, field, step, name):
    """seed → id → the mean of its samples, of the lines of the file and of nothing else."""
    found = {}
    for seed in SEEDS:
        lines = (folders[name, seed] / file).read_text().splitlines()
        told = [one for one in map(json.loads, lines) if one["step"] == step and field in one]
        ids = {one["id"]: one["task"] for one in told}
        found[seed] = {
            id: (task, statistics.fmean(one[field] for one in told if one["id"] == id))
            for id, task in ids.items()
        }
    return found


@pytest.mark.parametrize(
    ("file", "field", "steps"),
    [
        (GENERATIONS, "rougeL", STEPS),
        (GENERATIONS, "exact_match", STEPS),
        (GENERATIONS, "exact_match_unicode", STEPS),
        (GENERATIONS, "reward", STEPS),
        (SCORES, "accuracy", STEPS[:2]),
    ],
)
def test_every_aggregate_follows_from_the_records(folders, written, file, field, steps):
    summary = json.loads((written.parent / "summary.json").read_text())
    for name in NAMES:
        entry = summary["arrangements"][name]["scores"]
        curve, over = entry[field], entry[f"{field}_over_tasks"]
        assert curve["steps"] == list(steps)
        for place, step in enumerate(steps):
            found = by_example(folders, file, field, step, name)
            means = [statistics.fmean(v for _, v in of.values()) for of in found.values()]
            assert curve["mean"][place] == pytest.approx(statistics.fmean(means))
            assert curve["std"][place] == pytest.approx(statistics.stdev(means))
            of_tasks = {}
            for of in found.values():
                for task in {task for task, _ in of.values()}:
                    own = statistics.fmean(v for t, v in of.values() if t == task)
                    of_tasks.setdefault(task, []).append(own)
            by_task = {task: statistics.fmean(own) for task, own in of_tasks.items()}
            for task, value in by_task.items():
                assert curve["by_task"][task][place] == pytest.approx(value)
            assert over["mean"][place] == pytest.approx(statistics.fmean(by_task.values()))
    # The differences at the end of the window and at the last step measured.
    told = summary["differences"][field]
    assert list(told) == [str(step) for step in steps[1:]]
    for step, [pair] in told.items():
        both = [by_example(folders, file, field, int(step), name) for name in NAMES]
        grids = [np.array([[of[id][1] for id in of] for of in one.values()]) for one in both]
        assert pair["mean"] == pytest.approx((grids[0] - grids[1]).mean())
        assert ("mcnemar" in pair) == (field not in ("rougeL", "reward"))
        if "mcnemar" in pair:
            assert pair["mcnemar"] == mcnemar(*grids)


def test_the_headline_follows_from_the_records(folders, written):
    summary = json.loads((written.parent / "summary.json").read_text())
    rouge, exact = (
        by_example(folders, GENERATIONS, f, 30, "nft") for f in ("rougeL", "exact_match")
    )
    values = [
        rouge[seed][id][1] if KINDS[task] == "Keyword Tagging" else exact[seed][id][1]
        for seed in SEEDS
        for id, (task, _) in rouge[seed].items()
    ]
    final = summary["arrangements"]["nft"]["scores"]["headline"]["final"]
    assert final["mean"] == pytest.approx(statistics.fmean(values))


def test_the_page_shows_scores_as_it_shows_the_loss(written, read_page):
    page = read_page(written)
    page.check()
    finals = ["exact match", "ROUGE-L", "ROUGE-1", "accuracy", "reward"]
    columns = [f"Final {name}" for name in ("test loss", *finals)]
    assert page.table("results")[0][4:10] == columns
    tasks = page.table("rougeL_by_task")
    assert [row[0] for row in tasks[1:]] == ["t1", "t2", "t3", "(mean over tasks)"]
    column = [float(row[1]) for row in tasks[1:]]
    assert column[3] == pytest.approx(statistics.fmean(column[:3]), abs=0.02)
    [scores] = [one for one in page.drawn() if "headline" in one]
    assert "over_tasks" not in scores
    assert [row[0] for row in page.table("rougeL_by_category")[1:]] == sorted(set(KINDS.values()))
    assert page.table("differences-exact_match")[0][-1] == "p (McNemar)"
    assert "p (McNemar)" not in page.table("differences-rougeL")[0]
    said = page.said()
    assert "At step 20 nft is" in said
    assert "at the end, step 30, it is" in said
    assert "first sample of each test instance: those whose ROUGE-L differs most" in said
    assert "letters more in generations.jsonl" in said
    assert said.count(f"fft says {EVIL}") > 2
    names = {path.name for path in written.parent.iterdir()}
    assert {"rougeL.svg", "rougeL_by_task.svg", "rewards.svg", "accuracy.svg"} <= names


def test_the_texts_to_read_differ_most(folders, written, read_page):
    gaps = {}
    for name in NAMES:
        for one in read(folders[name, 0] / GENERATIONS):
            if (one["step"], one["sample"]) == (30, 0):
                gaps[one["id"]] = abs(gaps.get(one["id"], 0) - one["rougeL"])
    said = read_page(written).said()
    ranked = sorted(gaps, key=gaps.get)
    places = [said.rindex(f" {id} t") for id in ranked[:2:-1]]
    assert places == sorted(places)
    assert len(places) == 6


def test_only_what_was_measured_is_shown(make_runs, read_page, tmp_path, undrawn):
    page = read_page(write_report(tmp_path, make_runs(), {}, {}))
    page.check()
    assert page.table("results")[0][1:3] == ["Area under loss curve", "Final test loss"]
    assert "ROUGE" not in page.said()
    assert "Texts to read" not in page.said()


def test_losses_are_examples_too(make_runs):
    told = make_runs(losses=[1.0, 2.0, 4.0])
    values, tasks = losses(told, ["a", "b", "a"], [30]).at(30)
    assert values["nft"].tolist() == [[1, 2, 4]] * 2
    assert tasks == ["a", "b", "a"]
    assert losses(told, ["a"], [30]).at(30)[1] is None


def test_a_workdir_reports_the_records_of_its_runs(finished, tmp_path, read_page, undrawn):
    workdir = tmp_path / "w"
    shutil.copytree(finished, workdir)
    folder = workdir / "runs" / "tmta-nft-seed0"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = max(one["step"] for one in metrics)
    kept = [one | {"step": last} for one in generations("nft", 0) if one["step"] == 30]
    (folder / GENERATIONS).write_bytes(b"".join(map(json_line, kept)))
    for one in metrics:
        if one["kind"] == "test" and one["step"] == last:
            one |= aggregate_records(kept, ["rougeL", "reward"])
    (folder / "metrics.jsonl").write_bytes(b"".join(map(json_line, metrics)))
    # A run's own metrics are told by their digest.
    facts = json.loads((folder / "finished.json").read_text())
    digest = hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest()
    (folder / "finished.json").write_text(json.dumps(facts | {"metrics_sha256": digest}))
    index = build(workdir, title="T", command="c", runs=[("tmta-nft", 0)])
    mean = statistics.fmean(one["rougeL"] for one in kept)
    assert f"{mean:.2f}" in read_page(index).table("results")[1]
    assert (index.parent / "rewards.svg").exists()


def test_before_is_said_of_the_weights_it_began_with_alone():
    def records(**by_step):
        return {
            0: [
                {"step": int(step[1:]), "reward": reward}
                for step, rewards in by_step.items()
                for reward in rewards
            ]
        }

    def words(**by_name):
        figure = rewards_figure(by_name, list(by_name))
        return f"{figure.heading}: {figure.caption}"

    both = words(a=records(_0=[0.1, 0.3], _8=[0.5, 0.7]), b=records(_0=[0.1, 0.1], _8=[0.2, 0.2]))
    assert "a 0.200 before and 0.600 after; b 0.100 before and 0.200 after" in both
    last = words(a=records(_8=[0.5, 0.7]), b=records(_8=[0.2, 0.2]))
    assert "a 0.600 at step 8; b 0.200 at step 8" in last
    assert "before" not in last
    one = words(a=records(_0=[0.1, 0.3], _8=[0.5, 0.7]), b=records(_8=[0.2, 0.2]))
    assert "a 0.200 before and 0.600 after; b 0.200 at step 8" in one
    late = words(a=records(_4=[0.1, 0.3], _8=[0.5, 0.7]))
    assert "a 0.200 at step 4 and 0.600 at step 8" in late


CLICKS = """
window.addEventListener("load", () => {
  const table = document.querySelector("[aria-labelledby=rougeL_by_task] table");
  for (const one of document.querySelectorAll("details")) one.open = true;
  const [task, value] = table.querySelectorAll("thead button");
  const column = (i) => [...table.tBodies[0].rows].map((row) => row.cells[i].textContent);
  const told = [];
  task.click(); task.click();
  told.push(column(0));
  value.focus();
  told.push(document.activeElement === value);
  value.click();
  told.push(column(1).map(parseFloat), value.parentElement.getAttribute("aria-sort"));
  told.push(csv(table), document.documentElement.scrollWidth);
  document.title = JSON.stringify(told);
});
"""


def test_a_browser_opens_the_page_without_an_error(written, browse):
    page, errors = browse(written)
    assert errors == []
    assert page.count(">Copy as CSV<") == page.count("<thead>") > 10


def test_tables_sort_and_copy_in_a_browser(written, tmp_path, browse):
    content = written.read_text()
    # The page allows its own script alone; the copy that is clicked on allows the clicks too.
    head, meta, rest = content.partition('<meta http-equiv="Content-Security-Policy"')
    copy = tmp_path / "copy.html"
    copy.write_text(
        head + rest.partition(">")[2].replace("</main>", f"</main><script>{CLICKS}</script>")
    )
    assert meta
    page, errors = browse(copy, "--window-size=500,900")
    assert errors == []
    told = page.partition("<title>")[2].partition("</title>")[0]
    tasks, focused, values, way, csv, width = json.loads(told.replace("&quot;", '"'))
    assert tasks == ["t3", "t2", "t1", "(mean over tasks)"]
    assert focused
    assert (values, way) == (sorted(values), "ascending")
    assert csv.splitlines()[0] == '"Task","nft","fft"'
    assert len(csv.splitlines()) == 5
    assert width <= 500  # nothing but the tables' own frames scrolls sideways


def test_the_page_runs_no_script_but_its_own(written, tmp_path, browse):
    copy = tmp_path / "evil.html"
    copy.write_text(
        written.read_text().replace("</main>", "</main><script>document.title='x'</script>")
    )
    page, errors = browse(copy)
    assert "<title>x" not in page
    assert any("Content Security Policy" in line for line in errors)
