"""A whole study: what it leaves in its workdir, what it tells, and what it refuses."""

import hashlib
import json
import re
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zsg_jax.arrangement import tmta
from zsg_jax.data import sources
from zsg_jax.data.dataset import from_list
from zsg_jax.data.instance import Instance, Turn
from zsg_jax.data.reading import ReadOptions
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.training import loop
from zsg_jax.workflows import study, study_data

METHODS = ("tmta-nft", "tmta-fft")


def run(config, workdir, command="python -m zsg_jax.main"):
    return study.run(config, workdir, command=command)


@pytest.fixture
def messages(tmp_path):
    """Writes a messages file of the given answers and returns its path."""

    def write(name, answers, prompt="Say it", **more):
        path = tmp_path / name
        with path.open("w") as file:
            for number, answer in enumerate(answers):
                turns = [("user", f"{prompt} {number}"), ("assistant", answer)]
                row = {"messages": [{"role": role, "content": text} for role, text in turns]}
                file.write(json.dumps(row | more) + "\n")
        return str(path)

    return write


@pytest.fixture(scope="module")
def both(make_config, tmp_path_factory):
    """The workdir of two orders and two seeds, finished, with its pictures."""
    workdir = tmp_path_factory.mktemp("both") / "w"
    run(make_config(**{"arrangement.methods": METHODS, "seeds": (0, 1)}), workdir)
    return workdir


def test_a_study_holds_what_other_programs_rely_on(
    both, make_config, read_metrics, capsys, monkeypatch
):
    summary = json.loads((both / "report" / "summary.json").read_text())
    assert list(summary["arrangements"]) == list(METHODS)
    page = both / "report" / "index.html"
    assert all((both / "report" / f"{name}.svg").exists() for name in ("loss", "similarity"))
    turns = {}
    for name in METHODS:
        folder = both / "arrangements" / name
        order, turns[name] = np.load(folder / "order.npy"), np.load(folder / "turn.npy")
        assert (order.dtype, turns[name].dtype) == (np.int64, np.int32)
        assert sorted(order) == list(range(80))
        assert json.loads((folder / "arrangement.json").read_text())
        ids = (folder / "ids.txt").read_text().splitlines(keepends=True)
        for seed in (0, 1):
            rows = read_metrics(both / "runs" / f"{name}-seed{seed}")
            train = [row for row in rows if row["kind"] == "train"]
            test = [row for row in rows if row["kind"] == "test"]
            assert [row["step"] for row in train] == list(range(1, 11))
            assert [row["step"] for row in test] == [0, 3, 6, 9, 10]
            for row in train:
                seen = "".join(ids[: 8 * row["step"]]).encode()
                assert row["order_digest"] == hashlib.sha256(seen).hexdigest()
                assert row.keys() >= {"loss", "learning_rate", "grad_norm", "tokens"}
            for row in test:
                assert row["instances"] == len(row["losses"]) == 12
                assert row["loss"] == pytest.approx(np.mean(row["losses"]))
                assert row["loss_by_task"].keys() == {"period-2:abcdef", "free-3"}
            assert test[-1]["loss"] < test[0]["loss"] - 0.5
    assert (np.diff(turns["tmta-nft"]) >= 0).all()
    assert (np.diff(turns["tmta-fft"]) <= 0).all()
    capsys.readouterr()

    # A finished workdir only redraws its report; nothing is computed again.
    marks = {
        path: path.stat().st_mtime_ns
        for path in both.rglob("*")
        if path.is_file() and not {"report", "config.json", ".lock"} & {path.parent.name, path.name}
    }
    page.unlink()
    run(make_config(**{"arrangement.methods": METHODS, "seeds": (0, 1)}), both)
    assert page.exists()
    assert marks == {path: path.stat().st_mtime_ns for path in marks}
    assert capsys.readouterr().err == ""

    # Arrangements of two encoders are no study.
    workdir = shutil.copytree(both, both.with_name("encoders"))
    shutil.rmtree(workdir / "runs")
    shutil.rmtree(workdir / "arrangements" / "tmta-fft")
    made = HashingEncoder.__init__

    def other(self, *args):
        made(self, *args)
        self.fingerprint += ";another"

    monkeypatch.setattr(HashingEncoder, "__init__", other)
    with pytest.raises(UserError, match=r"not all were made with the same encoder .*;another"):
        run(make_config(**{"arrangement.methods": METHODS, "seeds": (0, 1)}), workdir)


def test_a_workdir_grows_by_orders_and_seeds_and_keeps_what_it_has(
    both, finished, small_config, read_metrics, tmp_path
):
    grown = tmp_path / "w"
    shutil.copytree(finished, grown)
    first = {path: path.read_bytes() for path in (grown / "runs").rglob("*.jsonl")}
    more = small_config(**{"arrangement.methods": METHODS, "seeds": (0, 1)})
    assert "the command with more" in run(more, grown, "the command with more").read_text()
    for name in METHODS:
        for seed in (0, 1):
            one = Path("runs") / f"{name}-seed{seed}"
            assert read_metrics(grown / one) == read_metrics(both / one)
    assert {path: path.read_bytes() for path in first} == first
    told = json.loads((grown / "report" / "summary.json").read_text())["arrangements"]
    assert {name: len(one["seeds"]) for name, one in told.items()} == dict.fromkeys(METHODS, 2)
    with pytest.raises(UserError, match="seeds"):
        run(small_config(**{"arrangement.methods": METHODS, "seeds": (1,)}), grown)


@pytest.mark.ci
@pytest.mark.slow
def test_a_workdir_grows_by_steps_of_a_constant_learning_rate(
    small_config, read_metrics, tmp_path, capsys, monkeypatch
):
    constant = {"training.schedule": "constant", "training.warmup_steps": 2}
    run(small_config(**constant), tmp_path / "whole")
    grown, folder = tmp_path / "grown", Path("runs") / "tmta-nft-seed0"
    run(small_config(**constant, **{"training.steps": 5}), grown)
    first = read_metrics(grown / folder)
    order = (grown / "arrangements" / "tmta-nft" / "order.npy").read_bytes()
    # More than the order holds is refused, and leaves the workdir as it was.
    with pytest.raises(UserError, match=r"training\.steps=11, .* 10 steps"):
        run(small_config(**constant, **{"training.steps": 11}), grown)
    assert " of this start" not in capsys.readouterr().err
    train = loop.train

    def on_cards(run, recipe, facts):
        train(run, recipe, facts=facts | {loop.DEVICES: "3 × card"})

    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(loop, "train", on_cards)
        run(small_config(**constant, **{"training.steps": 7}), grown)
    assert read_metrics(grown / folder)[: len(first)] == first
    told = capsys.readouterr().err
    assert "going on after step 5" in told
    assert " of this start\n" in told
    # Neither where it began nor where it ended speaks for all steps.
    page = run(small_config(**constant), grown).read_text()
    assert re.search("<td>(.*), then 3 × card, then \\1</td>", page)
    # The ends on the way were measured besides.
    records = read_metrics(grown / folder)
    ends = [one for one in records if one["kind"] == "test" and one["step"] in (5, 7)]
    assert len(ends) == 2
    assert [one for one in records if one not in ends] == read_metrics(tmp_path / "whole" / folder)
    assert (grown / "arrangements" / "tmta-nft" / "order.npy").read_bytes() == order
    points = [
        json.loads((at / "arrangements" / "tmta-nft" / "similarity.json").read_text())
        for at in (grown, tmp_path / "whole")
    ]
    assert points[0] == points[1]
    capsys.readouterr()
    run(small_config(**constant), grown)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"training\.steps is None there, 7 here"):
        run(small_config(**constant, **{"training.steps": 7}), grown)


def test_leaks_that_were_lost_are_looked_for_again(finished, small_config, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "w")
    (workdir / "leakage.json").unlink()
    assert "leakage: none of 80 training rows" in run(small_config(), workdir).read_text()
    pairs = (finished / "leakage.jsonl").read_bytes()
    assert (workdir / "leakage.jsonl").read_bytes() == pairs
    (workdir / "data.json").unlink()
    with pytest.raises(UserError, match=r"data\.json: is missing; put it back, or start again"):
        run(small_config(), workdir)


def test_seeds_decide_the_weights_and_the_shuffles_and_steps_what_is_seen(
    small_config, read_metrics, tmp_path
):
    methods = ("tmta-rt", "tmta-rt@7", "tmta-rt@3")
    changes = {"arrangement.methods": methods, "arrangement.seed": 3, "seeds": (5,)}
    page = run(small_config(**changes, **{"training.steps": 5}), tmp_path)
    records = [read_metrics(tmp_path / "runs" / f"{name}-seed5") for name in methods]
    assert records[0][0]["losses"] == records[1][0]["losses"]
    own, other, same = (record[1]["order_digest"] for record in records)
    assert own == same != other
    points = json.loads((tmp_path / "arrangements" / "tmta-rt" / "similarity.json").read_text())
    assert points["step"] == [3, 5]
    assert "40 of them trained on, in 5 steps" in page.read_text()


def test_every_kind_of_order_by_another_distance_and_its_weights(small_config, tmp_path):
    weighted, named = ("coarse-nft", "wsd-nft", "polar-6-shuffled@2"), ("avg-nft", "ot-nft")
    methods = (*weighted, *named, "round-robin", "tmta-turns-1-3")
    overrides = {
        "similarity.distance": "euclidean",
        "arrangement.methods": methods,
        "arrangement.w_min": 0.5,
        "arrangement.w_avg": 3.0,
        "similarity.trajectory": ("wsd", "centroid", "divergence"),
        "training.steps": 1,
    }
    page = run(small_config(**overrides), tmp_path).read_text()
    assert "Euclidean, of unit rows" in page
    assert "Weights of distances in wsd-nft" in page
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert list(summary["arrangements"]) == list(methods)
    train, test = (
        np.concatenate(
            [np.load(path) for path in sorted((tmp_path / "embeddings" / s).glob("*.npy"))]
        )
        for s in ("train", "test")
    )
    every = np.array([[np.linalg.norm(a - b) for b in test] for a in train.astype(np.float64)])
    wsd = 0.5 * every.min(1) + 3 * every.mean(1)
    orders = {}
    for name in methods:
        folder = tmp_path / "arrangements" / name
        facts = json.loads((folder / "arrangement.json").read_text())["provenance"]
        weights = (0.5, 3.0) if name in weighted else (None, None)
        assert (facts.get("w_min"), facts.get("w_avg")) == weights
        assert (facts.get("plan") == "exact") == (name == "ot-nft")
        assert name not in (*weighted, *named) or facts["metric"] == "euclidean"
        order = orders[name] = np.load(folder / "order.npy")
        points = json.loads((folder / "similarity.json").read_text())
        assert (points["metric"], points["weights"]) == ("euclidean", [0.5, 3.0])
        assert points["measures"]["wsd"]["all"] == pytest.approx([wsd[order[:8]].mean()], abs=1e-5)
        assert list(points["measures"]) == ["wsd", "centroid", "divergence"]
    for name, distance in (("wsd-nft", wsd), ("avg-nft", every.mean(1))):
        assert np.diff(distance[orders[name]]).min() > -1e-5
    # Two families of 40 rows: dealt in turn, one after the other, and mixed by distance.
    family = {name: order // 40 for name, order in orders.items()}
    assert family["round-robin"].tolist() == [0, 1] * 40
    assert np.count_nonzero(np.diff(family["coarse-nft"])) == 1
    assert np.count_nonzero(np.diff(family["wsd-nft"])) > 1
    assert len(orders["polar-6-shuffled@2"]) == 12
    assert 2 <= len(orders["tmta-turns-1-3"]) <= 2 * 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.steps": 3}, "tmta-turns-1-2 holds rows for . steps"),
        ({"training.warmup_steps": 3}, "training.warmup_steps=3 must be .* under the . steps"),
    ],
)
def test_an_arrangement_too_short_is_refused_before_any_is_trained_on(
    small_config, tmp_path, overrides, message
):
    methods = {"arrangement.methods": ("random", "tmta-turns-1-2")}
    with pytest.raises(UserError, match=message):
        run(small_config(**methods, **overrides), tmp_path)
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))
    # The workdir is free for the corrected one, which embeds nothing again.
    embedded = {path: path.stat().st_mtime_ns for path in tmp_path.glob("embeddings/*/*.npy")}
    assert embedded
    run(small_config(**methods, **{"training.steps": 1}), tmp_path)
    assert len(list(tmp_path.glob("runs/*/finished.json"))) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in embedded.items())


def test_what_is_left_out_and_what_makes_a_comparison_void_is_told(
    small_config, messages, read_metrics, tmp_path, capsys
):
    # Row 1 of either side keeps no answer token, so that what follows it moves up.
    answers = ["yes", "y" * 300, "no", *(f"word {n}" for n in range(30))]
    sides = {
        "data.train": messages("train.jsonl", answers, task="quiz"),
        "data.test": messages("test.jsonl", [*answers[:3], "another"], task="quiz"),
    }
    for path in sides.values():
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        rows[1]["messages"][0]["content"] = "x" * 99
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    limits = {"data.max_length": 64, "evaluation.max_length": 64}
    config = small_config(**sides, **limits, **{"arrangement.budget": 99, "training.steps": 1})
    page = run(config, tmp_path / "w").read_text()
    data = json.loads((tmp_path / "w" / "data.json").read_text())
    assert (data["train_dropped"], data["test_dropped"]) == (["train.jsonl:2"], ["test.jsonl:2"])
    assert (data["test_cut"], data["train_cut"]) == (1, 1)
    order = np.load(tmp_path / "w" / "arrangements" / "tmta-nft" / "order.npy")
    assert sorted(order) == [0, *range(2, 33)]
    rows = read_metrics(tmp_path / "w" / "runs" / "tmta-nft-seed0")
    assert (rows[0]["instances"], rows[0]["dropped"]) == (3, 1)

    # Leaks go by the numbers of the rows as read.
    pairs = [json.loads(x) for x in (tmp_path / "w" / "leakage.jsonl").read_text().splitlines()]
    found = [(x["kind"], x["train_row"], x["test_row"]) for x in pairs if "train_row" in x]
    assert {("exact", 0, 0), ("exact", 2, 2), ("prompt", 3, 3)} <= set(found)
    told = capsys.readouterr().err
    assert "1 of 1 test tasks stand in the training data too, such as 'quiz'" in told
    assert "arrangement.budget=99 is more than the 32 usable rows" in told
    for text in (told, page):
        assert "no answer token left" in text
        assert "2 exact, 1 same prompt" in text
    assert "1 task, 1 of them in the training data too" in page


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(
    finished, small_config, read_metrics, tmp_path, monkeypatch
):
    real = loop.place_batch
    steps = []

    def poisoned(batch, mesh):
        steps.append(1)
        if len(steps) == 6:
            # Token ids far out of range make the gathered embedding NaN.
            batch = {**batch, "tokens": np.full_like(batch["tokens"], 10**6)}
        return real(batch, mesh)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "place_batch", poisoned)
        with pytest.raises(UserError, match=r"tmta-nft-seed0: loss is nan at step 6; its instan"):
            run(small_config(), tmp_path / "w")
    # What it had is not lost: the run goes on after step 4 to where a run without harm ends.
    run(small_config(), tmp_path / "w")
    runs = [read_metrics(one / "runs" / "tmta-nft-seed0") for one in (tmp_path / "w", finished)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.steps": 11}, "training.steps=11, but 80 training rows make 10 steps"),
        ({"training.warmup_steps": 9, "training.steps": 9}, "under the 9 steps"),
        ({"training.micro_batch_size": 3}, "sizes that fit"),
        ({"data.train": "nowhere.jsonl", "data.test": "x"}, "nowhere.jsonl: no such file"),
        ({"data.train": "gs://b/x.jsonl", "data.test": "x"}, "gs://b/x.jsonl: is no file of this"),
        ({"data.max_length": 8}, "no train row has an answer token left"),
        ({"evaluation.max_length": 8}, "no test row has an answer token left"),
        ({"tokenizer": "nowhere"}, "does not exist; give a folder with a tokenizer.json"),
        ({"similarity.encoder": "nowhere"}, "nowhere"),
        ({"model.init_from": "nowhere"}, "nowhere"),
        ({"data.rewrites.no_ops": 2.0}, "between 0 and 1"),
    ],
)
def test_mistakes_end_in_one_line(small_config, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        run(small_config(**overrides), tmp_path / "w")
    assert "\n" not in str(caught.value)


def test_a_study_is_the_same_whatever_its_rows_are_written_in(
    small_config, messages, read_metrics, tmp_path
):
    """Messages as JSON lines; the same as a Parquet table of questions."""
    answers = [f"word {n} and {n % 5} more" for n in range(24)]
    paths = messages("train.jsonl", answers), messages("test.jsonl", answers[3:9], prompt="Tell")
    for path in map(Path, paths):
        rows = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
        columns = {"id": [f"{path.name}:{number}" for number in range(1, len(rows) + 1)]}
        for at, field in enumerate(("question", "answer")):
            columns[field] = [row[at]["content"] for row in rows]
        pq.write_table(pa.table(columns), path.with_suffix(".parquet"))
    made = []
    for suffix in ("jsonl", "parquet"):
        workdir = tmp_path / suffix
        sides = {f"data.{name}": str(tmp_path / f"{name}.{suffix}") for name in ("train", "test")}
        config = small_config(**sides, **{"tokenizer": "train", "tokenizer_size": 300})
        run(config, workdir)
        assert not (workdir / "scratch").exists()
        assert (workdir / "tokenizer" / "tokenizer.json").exists()
        made.append(
            (
                (workdir / "arrangements" / "tmta-nft" / "ids.txt").read_text(),
                (workdir / "leakage.jsonl").read_text(),
                json.loads((workdir / "data.json").read_text()),
                read_metrics(workdir / "runs" / "tmta-nft-seed0"),
            )
        )
    assert made[0] == made[1]
    assert made[0][2]["train_rows"] == 24


def test_data_that_changed_since_are_refused(small_config, messages, tmp_path, monkeypatch):
    test = messages("test.jsonl", ["a"])
    config = small_config(**{"data.train": messages("train.jsonl", ["b"] * 9), "data.test": test})

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "w")
    messages("test.jsonl", ["c"])
    with pytest.raises(UserError, match="the test instances changed since"):
        run(config, tmp_path / "w")


def test_rows_kept_for_the_report_steer_no_arrangement(small_config, read_metrics, tmp_path):
    config = small_config(**{"data.report_fraction": 0.25, "training.steps": 2})
    run(config, tmp_path)
    data = json.loads((tmp_path / "data.json").read_text())
    assert (data["aimed_rows"], data["scored_rows"]) == (8, 4)
    made = config.data.rewrites.to_dict()
    train, test = sources.load(
        "rewrites", "rewrites", ReadOptions(tmp_path), ExitStack(), rewrites_options=made
    )
    scored = [row for row in test if row.id in set(data["test_ids"])]
    aimed = [row for row in test if row not in scored]
    train_rows, test_rows = (
        HashingEncoder().encode([row.text for row in side]) for side in (train, aimed)
    )
    order = np.load(tmp_path / "arrangements" / "tmta-nft" / "order.npy")
    np.testing.assert_array_equal(order, tmta(train_rows, test_rows).order)
    measured = read_metrics(tmp_path / "runs" / "tmta-nft-seed0")[0]
    assert measured["instances"] == len(measured["losses"]) == 4
    # Two of either task: a quarter of six, rounded.
    assert sorted(row.task for row in scored) == ["free-3"] * 2 + ["period-2:abcdef"] * 2
    page = (tmp_path / "report" / "index.html").read_text()
    assert "arranged toward 8 test rows" in page
    assert "4 others" in page
    assert "also the ones scored" not in page


def test_a_prompt_and_an_answer_that_the_page_cuts_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(study_data, "LETTERS_SHOWN", 4)
    turns = Turn("user", "long prompt"), Turn("assistant", "yes")
    rows = [Instance("a", "t", turns, ("yes", "of course"))]
    study_data.keep_shown(tmp_path, from_list(rows))
    shown = json.loads((tmp_path / "shown.jsonl").read_text())
    assert (shown["prompt"], shown["references"]) == ("long …", ["yes", "of c …"])
