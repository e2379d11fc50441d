import hashlib
import json
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zsg_jax.arrangement import tmta
from zsg_jax.data import sources
from zsg_jax.data.dataset import ReadOptions
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.training import loop
from zsg_jax.workflows import study


def run(config, workdir):
    return study.run(config, workdir, command="python -m zsg_jax.main")


@pytest.fixture
def messages(tmp_path):
    """Writes a messages file of the given answers and returns its path."""

    def write(name, answers, prompt="Say it"):
        path = tmp_path / name
        with path.open("w") as file:
            for number, answer in enumerate(answers):
                turns = [("user", f"{prompt} {number}"), ("assistant", answer)]
                row = {"messages": [{"role": role, "content": text} for role, text in turns]}
                file.write(json.dumps(row) + "\n")
        return str(path)

    return write


def test_a_study_holds_what_other_programs_rely_on(small_config, read_metrics, tmp_path, capsys):
    methods = ("tmta-nft", "tmta-fft", "tmta-rt", "tmta-max")
    config = small_config(**{"arrangement.methods": methods, "seeds": (0, 1)})
    page = run(config, tmp_path / "w")
    workdir = tmp_path / "w"
    assert page == workdir / "report" / "index.html"
    summary = json.loads((workdir / "report" / "summary.json").read_text())
    assert list(summary["arrangements"]) == list(methods)

    for name in methods:
        folder = workdir / "arrangements" / name
        order, turn = np.load(folder / "order.npy"), np.load(folder / "turn.npy")
        assert (order.dtype, turn.dtype) == (np.int64, np.int32)
        assert sorted(order) == list(range(80))
        assert json.loads((folder / "arrangement.json").read_text())
        ids = (folder / "ids.txt").read_text().splitlines(keepends=True)
        for seed in (0, 1):
            rows = read_metrics(workdir / "runs" / f"{name}-seed{seed}")
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

    turns = {name: np.load(workdir / "arrangements" / name / "turn.npy") for name in methods}
    assert (np.diff(turns["tmta-nft"]) >= 0).all()
    assert (np.diff(turns["tmta-fft"]) <= 0).all()
    capsys.readouterr()

    # A finished workdir only redraws its report; nothing is computed again.
    marks = {
        path: path.stat().st_mtime_ns
        for path in workdir.rglob("*")
        if path.is_file() and not {"report", "config.json", ".lock"} & {path.parent.name, path.name}
    }
    (workdir / "report" / "index.html").unlink()
    run(config, workdir)
    assert page.exists()
    assert marks == {path: path.stat().st_mtime_ns for path in marks}
    assert capsys.readouterr().err == ""


def test_seeds_decide_the_weights_and_the_shuffles(small_config, read_metrics, tmp_path):
    methods = ("tmta-rt", "tmta-rt@7", "tmta-rt@3")
    changes = {"arrangement.methods": methods, "arrangement.seed": 3}
    run(small_config(**changes, **{"training.steps": 2, "seeds": (5,)}), tmp_path)
    records = [read_metrics(tmp_path / "runs" / f"{name}-seed5") for name in methods]
    assert records[0][0]["losses"] == records[1][0]["losses"]
    own, other, same = (record[1]["order_digest"] for record in records)
    assert own == same != other


def test_orders_by_task_distance_and_turn_in_one_study(small_config, read_metrics, tmp_path):
    methods = ("round-robin", "coarse-nft", "wsd-fft", "tmta-turns-1-3")
    page = run(small_config(**{"arrangement.methods": methods}), tmp_path)
    orders = {name: np.load(tmp_path / "arrangements" / name / "order.npy") for name in methods}
    # Two families of 40 rows: dealt in turn, one after the other, and mixed by distance.
    family = {name: order // 40 for name, order in orders.items()}
    assert family["round-robin"].tolist() == [0, 1] * 40
    assert np.count_nonzero(np.diff(family["coarse-nft"])) == 1
    assert np.count_nonzero(np.diff(family["wsd-fft"])) > 1
    assert 2 <= len(orders["tmta-turns-1-3"]) <= 2 * 12
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert list(summary["arrangements"]) == list(methods)
    for name, order in orders.items():
        rows = read_metrics(tmp_path / "runs" / f"{name}-seed0")
        assert rows[-1]["step"] == -(-len(order) // 8)
        facts = json.loads((tmp_path / "arrangements" / name / "arrangement.json").read_text())
        assert ("w_avg" in facts["provenance"]) == (name in ("coarse-nft", "wsd-fft"))
    assert "Weights of distances in wsd-fft" in page.read_text()


def test_the_distance_and_its_weights_reach_the_arrangements(small_config, tmp_path):
    methods = ("wsd-nft", "avg-nft", "polar-6-shuffled@2", "ot-nft")
    overrides = {
        "similarity.distance": "euclidean",
        "arrangement.methods": methods,
        "arrangement.w_min": 0.5,
        "arrangement.w_avg": 3.0,
        "similarity.trajectory": ("wsd", "centroid", "divergence"),
        "training.steps": 1,
    }
    page = run(small_config(**overrides), tmp_path)
    assert "Euclidean, of unit rows" in page.read_text()
    train, test = (
        np.concatenate(
            [np.load(path) for path in sorted((tmp_path / "embeddings" / s).glob("*.npy"))]
        )
        for s in ("train", "test")
    )
    every = np.array([[np.linalg.norm(a - b) for b in test] for a in train.astype(np.float64)])
    expected = {"wsd-nft": 0.5 * every.min(1) + 3 * every.mean(1), "avg-nft": every.mean(1)}
    for name in methods:
        folder = tmp_path / "arrangements" / name
        facts = json.loads((folder / "arrangement.json").read_text())["provenance"]
        assert facts["metric"] == "euclidean"
        weighted = name in ("wsd-nft", "polar-6-shuffled@2")
        assert (facts.get("w_min"), facts.get("w_avg")) == ((0.5, 3.0) if weighted else (None,) * 2)
        assert (facts.get("plan") == "exact") == (name == "ot-nft")
        order = np.load(folder / "order.npy")
        assert len(order) == (12 if name == "polar-6-shuffled@2" else 80)
        points = json.loads((folder / "similarity.json").read_text())
        assert (points["metric"], points["weights"]) == ("euclidean", [0.5, 3.0])
        seen = (0.5 * every.min(1) + 3 * every.mean(1))[order[:8]].mean()
        assert points["measures"]["wsd"]["all"] == pytest.approx([seen], abs=1e-5)
        assert list(points["measures"]) == ["wsd", "centroid", "divergence"]
        if name in expected:
            assert np.diff(expected[name][order]).min() > -1e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.steps": 3}, "tmta-turns-1-2 holds rows for . steps"),
        ({"training.warmup_steps": 3}, "training.warmup_steps=3 must be .* under the . steps"),
        ({"arrangement.methods": ("random", "tmta-turns-80-81")}, "ends with turn 80, but there"),
    ],
)
def test_an_arrangement_too_short_is_refused_before_any_is_trained_on(
    small_config, tmp_path, overrides, message
):
    config = small_config(**{"arrangement.methods": ("random", "tmta-turns-1-2"), **overrides})
    with pytest.raises(UserError, match=message):
        run(config, tmp_path)
    assert not list(tmp_path.glob("runs/*/metrics.jsonl"))


def test_rows_without_an_answer_token_are_left_out_and_counted(
    small_config, messages, read_metrics, tmp_path, capsys
):
    short, long = "yes", "y" * 300
    train = messages("train.jsonl", [short] * 20)
    with open(train, "a") as file:
        turns = [{"role": "user", "content": "x" * 99}, {"role": "assistant", "content": short}]
        file.write(json.dumps({"id": "too long", "messages": turns}) + "\n")
    test = messages("test.jsonl", [short, long, short])
    with open(test, "a") as file:
        file.write(json.dumps({"id": "also", "messages": turns}) + "\n")
    config = small_config(
        **{
            "data.train": train,
            "data.test": test,
            "data.max_length": 64,
            "evaluation.max_length": 64,
        }
    )
    page = run(config, tmp_path / "w")
    data = json.loads((tmp_path / "w" / "data.json").read_text())
    assert data["train_dropped"] == ["too long"]
    assert data["test_dropped"] == ["also"]
    assert (data["test_cut"], data["train_cut"]) == (2, 1)
    order = np.load(tmp_path / "w" / "arrangements" / "tmta-nft" / "order.npy")
    assert sorted(order) == list(range(20))
    rows = read_metrics(tmp_path / "w" / "runs" / "tmta-nft-seed0")
    assert (rows[0]["instances"], rows[0]["dropped"]) == (3, 1)
    assert "no answer token left" in capsys.readouterr().err
    assert "no answer token left" in page.read_text()


def test_what_makes_a_comparison_void_is_told(small_config, messages, tmp_path, capsys):
    rows = messages("rows.jsonl", ["yes", "no", "maybe"])
    with open(rows, "a") as file:
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
        file.write(json.dumps({"task": "quiz", "messages": turns}) + "\n")
    config = small_config(**{"data.train": rows, "data.test": rows, "arrangement.budget": 9})
    page = run(config, tmp_path / "w").read_text()
    told = capsys.readouterr().err
    assert "1 of 2 test tasks stand in the training data too, such as 'quiz'" in told
    assert "arrangement.budget=9 is more than the 4 usable rows" in told
    assert "4 rows make one step" in told
    assert "2 tasks, 1 of them in the training data too" in page
    assert "4 in 1 steps" in page


def test_a_run_of_fewer_steps_shows_only_what_it_saw(small_config, tmp_path):
    run(small_config(**{"training.steps": 5}), tmp_path)
    points = json.loads((tmp_path / "arrangements" / "tmta-nft" / "similarity.json").read_text())
    assert points["step"] == [3, 5]
    assert "40 in 5 steps" in (tmp_path / "report" / "index.html").read_text()


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(
    small_config, read_metrics, tmp_path, monkeypatch
):
    real = loop.place_batch
    steps = []

    def poisoned(batch, mesh):
        steps.append(1)
        if len(steps) == 6:
            # Token ids far out of range make the gathered embedding NaN.
            batch = {**batch, "tokens": np.full_like(batch["tokens"], 10**6)}
        return real(batch, mesh)

    monkeypatch.setattr(loop, "place_batch", poisoned)
    with pytest.raises(UserError, match=r"tmta-nft-seed0: loss is nan at step 6; its instances"):
        run(small_config(), tmp_path / "w")
    monkeypatch.undo()
    # What it had is not lost: the run goes on after step 4 to where a run without harm ends.
    run(small_config(), tmp_path / "w")
    run(small_config(), tmp_path / "unharmed")
    runs = [read_metrics(tmp_path / name / "runs" / "tmta-nft-seed0") for name in ("w", "unharmed")]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training.steps": 11}, "training.steps=11, but 80 training rows make 10 steps"),
        ({"training.warmup_steps": 10}, "training.warmup_steps=10 must be .* under the 10 steps"),
        ({"training.warmup_steps": 9, "training.steps": 9}, "under the 9 steps"),
        ({"training.micro_batch_size": 3}, "sizes that fit"),
        ({"data.train": "nowhere.jsonl", "data.test": "x"}, "nowhere.jsonl: no such file"),
        ({"data.train": "gs://b/x.jsonl", "data.test": "x"}, "gs://b/x.jsonl: is no file of this"),
        ({"data.max_length": 8}, "no train row has an answer token left"),
        ({"evaluation.max_length": 8}, "no test row has an answer token left"),
        ({"tokenizer": "nowhere"}, "tokenizer.json does not exist"),
        ({"similarity.encoder": "nowhere"}, "nowhere"),
        ({"model.init_from": "nowhere"}, "nowhere"),
        ({"data.rewrites.no_ops": 2.0}, "between 0 and 1"),
        ({"data.report_fraction": 1.5}, r"data\.report_fraction=1\.5 leaves nothing to arrange"),
    ],
)
def test_mistakes_end_in_one_line(small_config, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        run(small_config(**overrides), tmp_path / "w")
    assert "\n" not in str(caught.value)


def test_a_study_is_the_same_whatever_its_rows_are_written_in(
    small_config, messages, read_metrics, tmp_path
):
    """Messages as JSON lines; the same as an array, and as a Parquet table of questions."""
    answers = [f"word {n} and {n % 5} more" for n in range(24)]
    paths = messages("train.jsonl", answers), messages("test.jsonl", answers[3:9], prompt="Tell")
    rows = [[json.loads(x) for x in Path(path).read_text().splitlines()] for path in paths]
    for side, name in zip(rows, ("train", "test"), strict=True):
        for number, row in enumerate(side, start=1):
            row["id"] = f"{name}.jsonl:{number}"
        (tmp_path / f"{name}.json").write_text(json.dumps(side, indent=1))
        columns = {"id": [row["id"] for row in side]}
        for at, field in enumerate(("question", "answer")):
            columns[field] = [row["messages"][at]["content"] for row in side]
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    made = []
    for suffix in ("jsonl", "json", "parquet"):
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
    assert made[0] == made[1] == made[2]
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


def test_leaks_are_told_in_the_workdir_and_on_the_page(small_config, messages, tmp_path, capsys):
    answers = [f"word {n} and more" for n in range(40)]
    config = small_config(
        **{
            "data.train": messages("train.jsonl", answers),
            "data.test": messages("test.jsonl", [answers[3], "something else"], prompt="Say it"),
            "training.steps": 1,
        }
    )
    # Row 0 of the test set asks what row 0 of the training set asks, with another answer.
    page = run(config, tmp_path / "w").read_text()
    counts = json.loads((tmp_path / "w" / "leakage.json").read_text())["counts"]
    assert (counts["exact_train_rows"], counts["prompt_train_rows"]) == (0, 2)
    pairs = [json.loads(x) for x in (tmp_path / "w" / "leakage.jsonl").read_text().splitlines()]
    told = [(x["train_id"], x["test_id"]) for x in pairs if x["kind"] == "prompt"]
    assert told == [("train.jsonl:1", "test.jsonl:1"), ("train.jsonl:2", "test.jsonl:2")]
    said = capsys.readouterr().err
    assert "2 same prompt" in said
    assert "2 same prompt" in page


def test_leaks_go_by_the_numbers_of_the_rows_as_read(small_config, messages, tmp_path):
    # Row 1 of either side keeps no answer token, so that what follows it moves up.
    answers = ["yes", "y" * 300, "no", *(f"word {n}" for n in range(30))]
    train, test = messages("train.jsonl", answers), messages("test.jsonl", answers[:4])
    for path, number in ((train, 1), (test, 1)):
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
        rows[number]["messages"][0]["content"] = "x" * 99
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = small_config(
        **{
            "data.train": train,
            "data.test": test,
            "data.max_length": 64,
            "evaluation.max_length": 64,
            "training.steps": 1,
        }
    )
    run(config, tmp_path / "w")
    pairs = [json.loads(x) for x in (tmp_path / "w" / "leakage.jsonl").read_text().splitlines()]
    exact = [pair for pair in pairs if pair["kind"] == "exact"]
    assert [(pair["train_row"], pair["test_row"]) for pair in exact] == [(0, 0), (2, 2), (3, 3)]
    assert [pair["train_id"] for pair in exact] == [f"train.jsonl:{n}" for n in (1, 3, 4)]


def test_arrangements_of_two_encoders_are_no_study(small_config, tmp_path, monkeypatch):
    config = small_config(**{"arrangement.methods": ("tmta-nft", "random"), "training.steps": 1})
    run(config, tmp_path)
    for part in ("runs/random-seed0", "arrangements/random"):
        shutil.rmtree(tmp_path / part)
    made = HashingEncoder.__init__

    def other(self, *args):
        made(self, *args)
        self.fingerprint += ";another"

    monkeypatch.setattr(HashingEncoder, "__init__", other)
    with pytest.raises(UserError, match=r"not all were made with the same encoder .*;another"):
        run(config, tmp_path)


def test_a_report_without_leakage_says_so(small_config, tmp_path):
    config = small_config(**{"training.steps": 1})
    run(config, tmp_path)
    (tmp_path / "leakage.json").unlink()
    assert "leakage: not looked for" in run(config, tmp_path).read_text()
    (tmp_path / "data.json").unlink()
    with pytest.raises(UserError, match=r"data\.json: is missing; put it back, or start again"):
        run(config, tmp_path)
