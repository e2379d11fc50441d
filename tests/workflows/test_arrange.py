import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import grain
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zsg_jax.arrangement import tmta
from zsg_jax.arrangement.arrangement import load_arrangement
from zsg_jax.arrangement.comparison import Comparison
from zsg_jax.arrangement.methods import arrange, example_distance
from zsg_jax.data.export.examples import Example
from zsg_jax.data.instance import instances_digest
from zsg_jax.data.reading import ReadOptions, open_dataset
from zsg_jax.runtime.errors import UserError
from zsg_jax.similarity.encoders.hashing import HashingEncoder
from zsg_jax.similarity.search.cosine import cosine_matrix
from zsg_jax.workflows import arrange as command
from zsg_jax.workflows.arrange_options import ArrangeOptions


def examples(path):
    with open_dataset(path, ReadOptions(Path("unused"))) as dataset:
        return list(dataset)


def embedded(path):
    return HashingEncoder().encode([example.text for example in examples(path)])


def test_rows_come_out_in_the_order_as_they_went_in(run, sides, tmp_path):
    rows, facts = run(budget=20)
    expected = tmta(embedded(sides["train"]), embedded(sides["test"]), budget=20)
    given = [json.loads(line) for line in Path(sides["train"]).read_text().splitlines()]
    nearest = -cosine_matrix(embedded(sides["train"]), embedded(sides["test"])).max(axis=1)
    assert len(rows) >= 20
    for row, at, turn in zip(rows, expected.order, expected.turn, strict=True):
        assert row == given[at] | {"zsg_turn": turn, "zsg_distance": pytest.approx(nearest[at])}
        assert list(row) == [*given[at], "zsg_turn", "zsg_distance"]
    out = tmp_path / "out"
    order, turn = np.load(out / "order.npy"), np.load(out / "turn.npy")
    assert (order.dtype, turn.dtype) == (np.int64, np.int32)
    np.testing.assert_array_equal(order, expected.order)
    np.testing.assert_array_equal(turn, expected.turn)
    assert facts["turn_sizes"] == expected.turn_sizes.tolist()
    ids = [examples(sides["train"])[at].id for at in order]
    assert (out / "ids.txt").read_text() == "".join(f"{one}\n" for one in ids)
    loaded, provenance = load_arrangement(out)
    np.testing.assert_array_equal(loaded.order, order)
    assert provenance["method"] == "tmta-min"
    assert provenance["arguments"]["budget"] == 20
    assert provenance["encoder_digest"] == HashingEncoder().fingerprint
    assert provenance["train"]["digest"] == instances_digest(examples(sides["train"]))
    assert provenance["train"]["rows"] == 60
    assert provenance["zsg_distance"] == "minimum over test rows of -cos"
    assert provenance["seconds"].keys() >= {"reading", "embedding", "arranging", "writing"}
    assert not (out / "scratch").exists()


def as_alpaca(path):
    """The rows of a messages file as other people have them."""
    rows = []
    for line in Path(path).read_text().splitlines():
        row = json.loads(line)
        prompt, answer = (turn["content"] for turn in row.pop("messages"))
        rows.append(row | {"instruction": prompt, "input": "", "output": answer})
    return rows


def write_rows(rows, folder, container):
    """Writes rows in a container and returns its path."""
    datasets.disable_progress_bars()
    table = pa.Table.from_pylist(rows)
    path = folder / f"rows.{container}"
    if container == "json":
        path.write_text(json.dumps(rows, indent=2, ensure_ascii=False), "utf-8")
    elif container == "parquet":
        pq.write_table(table, path, row_group_size=7)
    elif container == "saved":
        datasets.Dataset(table).save_to_disk(str(path), num_shards=2)
    else:
        path.mkdir()
        for start in range(0, len(rows), 25):
            part = path / f"{start:03}.jsonl"
            part.write_text("\n".join(map(json.dumps, rows[start : start + 25])))
    return str(path)


@pytest.mark.parametrize(
    ("container", "format"),
    [("json", "parquet"), ("parquet", "jsonl"), ("saved", "arrayrecord"), ("folder", "arrow")],
)
def test_rows_of_any_source_come_out_in_any_format(sides, tmp_path, container, format):
    rows = as_alpaca(sides["train"])
    train = write_rows(rows, tmp_path, container)
    request = ArrangeOptions(
        train=train, test=sides["test"], output=tmp_path / "out", budget=20, format=format
    )
    written = command.run(request)
    facts = json.loads((tmp_path / "out" / "arrangement.json").read_text())["provenance"]
    assert (facts["train"]["format"], facts["test"]["format"]) == ("alpaca", "messages")
    # The same instances as in the file of messages, so the same order.
    order = tmta(embedded(sides["train"]), embedded(sides["test"]), budget=20).order
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "order.npy"), order)
    expected = [rows[row] for row in order]
    if format == "arrayrecord":
        source = grain.sources.ArrayRecordDataSource([str(written)])
        for record, row in zip(source, expected, strict=True):
            example = Example.FromString(record).features.feature
            texts = {"prompt": row["instruction"], "completion": row["output"], "id": row["id"]}
            texts["text"] = f"{row['instruction']} {row['output']}"
            for name, text in texts.items():
                assert example[name].bytes_list.value[0].decode() == text
        return
    if format == "jsonl":
        found = [json.loads(line) for line in written.read_text().splitlines()]
    elif format == "parquet":
        found = pq.read_table(written).to_pylist()
    else:
        found = datasets.load_from_disk(str(written)).to_list()
    for row in found:
        assert row.pop("zsg_turn") >= 1
        assert -1 <= row.pop("zsg_distance") <= 1
    assert found == expected
    lines = np.load(tmp_path / "out" / "line.npy")
    per_file = 25 if container == "folder" else len(rows)
    np.testing.assert_array_equal(lines, order % per_file + 1)


def test_the_format_of_the_rows_can_be_given(run, sides, tmp_path):
    both = [row | {"question": "q?", "answer": "a"} for row in as_alpaca(sides["train"])]
    train = write_rows(both, tmp_path, "json")
    with pytest.raises(UserError, match=r"row 1: could be a row of .*--data-format=SCHEMA "):
        run(train=train)
    test = write_rows(as_alpaca(sides["test"]), tmp_path, "parquet")
    rows, facts = run(train=train, test=test, data_format="alpaca")
    order = tmta(embedded(sides["train"]), embedded(sides["test"])).order
    assert [row["source"]["page"] for row in rows] == order.tolist()
    assert facts["provenance"]["arguments"]["data_format"] == "alpaca"


def test_ready_embeddings_decide(run, tmp_path):
    rng = np.random.default_rng(5)
    train, test = rng.normal(size=(60, 3)), rng.normal(size=(7, 3)).astype(np.float16)
    np.save(tmp_path / "a.npy", train)
    np.save(tmp_path / "b.npy", test)
    ready = {
        "train_embeddings": str(tmp_path / "a.npy"),
        "test_embeddings": str(tmp_path / "b.npy"),
    }
    with pytest.raises(UserError, match=r"--encoder, .* are for rows embedded here"):
        run(**ready, encoder="no such folder")
    rows, facts = run(**ready)
    assert [row["source"]["page"] for row in rows] == tmta(train, test).order.tolist()
    assert facts["provenance"]["encoder"] == "given embeddings"
    assert not (tmp_path / "out" / "embeddings").exists()


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (np.ones((59, 3)), np.ones((7, 3)), r"a\.npy: 59 rows, but .*train\.jsonl holds 60"),
        (np.ones((60, 3)), np.ones((8, 3)), r"b\.npy: 8 rows, but .*test\.jsonl holds 7"),
        (np.ones((60, 3)), np.ones((7, 4)), "3 columns and test has 4"),
        (np.full((60, 3), np.nan), np.ones((7, 3)), r"a\.npy: row 0 holds a NaN"),
        (np.ones((60, 3)), np.full((7, 3), np.inf), r"b\.npy: row 0 holds a NaN or an infinity"),
        (np.ones((60, 3), int), np.ones((7, 3)), r"a\.npy: dtype int64"),
        (np.ones(60), np.ones((7, 3)), r"a\.npy: shape \(60,\)"),
    ],
)
def test_embeddings_that_do_not_fit_are_named(run, tmp_path, train, test, message):
    np.save(tmp_path / "a.npy", train)
    np.save(tmp_path / "b.npy", test)
    with pytest.raises(UserError, match=message):
        run(
            train_embeddings=str(tmp_path / "a.npy"),
            test_embeddings=str(tmp_path / "b.npy"),
        )
    assert not (tmp_path / "out" / "arrangement.json").exists()


def test_one_row_and_more_test_rows_than_training_rows(run, sides, tmp_path):
    one = tmp_path / "one.jsonl"
    one.write_text(Path(sides["train"]).read_text().splitlines()[0])
    rows, _ = run(train=str(one))
    assert [(row["id"], row["zsg_turn"]) for row in rows] == [("train-0", 1)]
    rows, _ = run(train=sides["test"], test=sides["train"])
    expected = tmta(embedded(sides["test"]), embedded(sides["train"]))
    assert [row["source"]["page"] for row in rows] == expected.order.tolist()


@pytest.mark.parametrize("side", ["train", "test"])
def test_an_empty_file_is_named(run, tmp_path, side):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.jsonl: holds no instance"):
        run(**{side: str(tmp_path / "empty.jsonl")})


def test_bad_rows_are_refused_or_skipped(run, sides, capsys):
    lines = Path(sides["train"]).read_text().splitlines()
    lines[20:20] = ["", '{"messages": []}']
    Path(sides["train"]).write_text("\n".join(lines))
    with pytest.raises(UserError, match=r'train\.jsonl:22: "messages" is empty; pass --bad-rows'):
        run()
    rows, facts = run(bad_rows="skip")
    assert len(rows) == 60
    assert facts["provenance"]["train"]["skipped"] == 1
    # The order counts the rows that were kept, the lines those of the file.
    lines = np.load(Path(sides["train"]).parent / "out" / "line.npy")
    given = Path(sides["train"]).read_text().splitlines()
    assert [json.loads(given[line - 1])["id"] for line in lines] == [row["id"] for row in rows]
    assert 'train.jsonl:22: "messages" is empty' in capsys.readouterr().err


def test_leaks_are_told_and_dropped_on_request(run, sides, tmp_path, capsys):
    test = Path(sides["test"]).read_text().splitlines()
    copy = json.loads(test[3]) | {"id": "copy"}
    with Path(sides["train"]).open("a") as file:
        file.write(json.dumps(copy) + "\n")
    rows, facts = run()
    assert "copy" in [row["id"] for row in rows]
    printed = capsys.readouterr().err
    assert "leakage: 1 of 61 training rows (1 exact, " in printed
    assert "--drop-leaks" in printed
    leaks = (tmp_path / "out" / "leakage.jsonl").read_text()
    assert '"copy"' in leaks
    assert '"test-3"' in leaks
    rows, facts = run(drop_leaks=True)
    assert len(rows) == 60
    assert "copy" not in [row["id"] for row in rows]
    assert facts["provenance"]["rows_left_out_as_leaks"] == 1
    with pytest.raises(UserError, match="every training row leaks"):
        run(train=sides["test"], drop_leaks=True)


def test_test_rows_kept_for_scoring_steer_nothing(run, sides, tmp_path):
    rows, facts = run(report_split=0.4, seed=3)
    out = tmp_path / "out"
    parts = {
        name: [json.loads(line) for line in (out / f"test_{name}.jsonl").read_text().splitlines()]
        for name in ("aimed", "scored")
    }
    given = [json.loads(line) for line in Path(sides["test"]).read_text().splitlines()]
    # Tasks of four and three rows: round(1.6) and round(1.2).
    assert (len(parts["aimed"]), len(parts["scored"])) == (4, 3)
    assert sorted(row["id"] for part in parts.values() for row in part) == [r["id"] for r in given]
    assert all(row in given for part in parts.values() for row in part)
    expected = tmta(embedded(sides["train"]), embedded(str(out / "test_aimed.jsonl")))
    assert [row["source"]["page"] for row in rows] == expected.order.tolist()
    assert facts["provenance"]["test_rows_scored_only"] == 3


def naive(sides, method, *, budget=None, seed=0, drop=(), aimed=None, **options):
    """Ids in the order that `method` gives from the embeddings, and their distances."""
    train = examples(sides["train"])
    kept = [row for row in range(len(train)) if row not in drop]
    test_rows = embedded(sides["test"])
    inputs = Comparison(
        embedded(sides["train"])[kept],
        test_rows if aimed is None else test_rows[aimed],
        [train[row].task for row in kept],
        budget=budget,
        **options,
    )
    order = arrange(method, inputs, seed).order
    return [train[kept[row]].id for row in order], example_distance(method, inputs)[0][order]


@pytest.mark.parametrize(
    ("method", "flags", "options"),
    [
        ("avg-nft", {"distance": "euclidean"}, {"distance": "euclidean"}),
        ("wsd-nft", {"w_min": 0.25, "w_avg": 3.0}, {"w_min": 0.25, "w_avg": 3.0}),
        ("wsd-fft", {"w_min": -2.0}, {"w_min": -2.0}),
        ("random", {"seed": 5, "budget": 11}, {"seed": 5, "budget": 11}),
        ("tmta-rt@6", {"seed": 5}, {"seed": 6}),
        ("uniform-3-shuffled", {"seed": 2}, {"seed": 2}),
    ],
)
def test_every_flag_reaches_the_order(run, sides, method, flags, options):
    rows, _ = run(method=method, **flags)
    ids, distance = naive(sides, method.partition("@")[0], **options)
    assert [row["id"] for row in rows] == ids
    np.testing.assert_allclose([row["zsg_distance"] for row in rows], distance, rtol=1e-6)
    assert naive(sides, method.partition("@")[0])[0] != ids


def test_embeddings_in_half_the_disk_decide_as_they_are(run, sides, tmp_path):
    rows, facts = run(method="wsd-nft", dtype="bfloat16")
    stored = (tmp_path / "out" / "embeddings" / "train" / "00000.npy").stat().st_size
    assert stored == 128 + 60 * 1024 * 2
    assert facts["provenance"]["dtype"] == "bfloat16"
    exact = naive(sides, "wsd-nft")
    assert sorted(row["id"] for row in rows) == sorted(exact[0])
    far = np.array([row["zsg_distance"] for row in rows])
    assert (far != exact[1]).any()
    np.testing.assert_allclose(far, exact[1], atol=0.02)


@pytest.mark.parametrize("method", ["round-robin", "cluster", "coarse-fft", "polar-4"])
def test_tasks_stay_with_their_rows_when_leaks_are_dropped(run, sides, method):
    test = Path(sides["test"]).read_text().splitlines()
    lines = Path(sides["train"]).read_text().splitlines()
    # Leaks near the start, of a task of their own, so that all that follow move up.
    for at in (1, 4):
        lines[at] = json.dumps(json.loads(test[at]) | {"id": f"leak-{at}", "task": "leaks"})
    Path(sides["train"]).write_text("\n".join(lines) + "\n")
    rows, _ = run(method=method, drop_leaks=True, report_split=0.4, seed=1)
    kept = [json.loads(line)["id"] for line in test]
    out = Path(sides["train"]).parent / "out"
    aimed = [json.loads(x)["id"] for x in (out / "test_aimed.jsonl").read_text().splitlines()]
    ids, distance = naive(
        sides, method, seed=1, drop=(1, 4), aimed=[kept.index(name) for name in aimed]
    )
    assert [row["id"] for row in rows] == ids
    np.testing.assert_allclose([row["zsg_distance"] for row in rows], distance, rtol=1e-6)


def test_the_flags_of_leakage_and_of_the_split_are_heard(run, sides, write_bytes_llama, tmp_path):
    test = json.loads(Path(sides["test"]).read_text().splitlines()[2])
    words = test["messages"][0]["content"].split()
    test["messages"][0]["content"] = " ".join(["so", *words[:4], "then", "other", "end"])
    with Path(sides["train"]).open("a") as file:
        file.write(json.dumps(test | {"id": "part"}) + "\n")
    assert run(leak_words=4)[1]["provenance"]["leakage"]["counts"]["ngram_train_rows"] >= 1
    assert run(leak_words=5)[1]["provenance"]["leakage"]["counts"]["ngram_train_rows"] == 0
    largest = cosine_matrix(embedded(sides["train"]), embedded(sides["test"])).max(axis=1)
    middle = float(np.median(largest))
    near = run(leak_similarity=middle)[1]["provenance"]["leakage"]["counts"]["near_train_rows"]
    assert near == (largest >= np.float32(middle)).sum() == 31
    states = f"states:{write_bytes_llama(tmp_path / 'llama')}"
    assert run(encoder=states)[1]["provenance"]["leakage"]["threshold"] == 0.999
    found = run(encoder=states, leak_similarity=0.9)[1]["provenance"]["leakage"]
    assert found["threshold"] == 0.9
    scored = Path(sides["test"]).parent / "out" / "test_scored.jsonl"
    splits = set()
    for seed in range(4):
        run(report_split=0.5, seed=seed)
        splits.add(scored.read_text())
    assert len(splits) > 1


def test_the_command(sides, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "zsg_jax.arrange", "--method=tmta-nft", "--embeddings=~/kept"),
            *("--train", sides["train"], "--test", sides["test"], "--output", tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"arranged: {os.path.relpath(tmp_path / 'out' / 'arranged.jsonl')}\n"
    assert "tmta-nft: " in done.stderr
    assert (tmp_path / "kept" / "train" / "manifest.json").is_file()
    assert load_arrangement(tmp_path / "out")[1]["arguments"]["embeddings"] == "~/kept"


def test_what_is_arranged_from_a_table_with_gaps_is_read_again(run, tmp_path):
    rows = [
        {"id": f"r{n}", "prompt": f"word {n}", "completion": "yes", "task": "a" if n % 2 else None}
        for n in range(6)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "gaps.parquet")
    first, _ = run(train=str(tmp_path / "gaps.parquet"))
    assert [("task" in row) for row in first] == [int(row["id"][1:]) % 2 == 1 for row in first]
    again, _ = run(train=str(tmp_path / "out" / "arranged.jsonl"), output=tmp_path / "again")
    assert {row["id"] for row in again} == {row["id"] for row in rows}


@pytest.mark.parametrize(
    ("flags", "made"),
    [
        ({"text": "prompt"}, lambda one: one.turns[0].content),
        ({"text": "answer", "test_prompt": "query: "}, lambda one: one.turns[-1].content),
        ({"text": "view.jinja", "train_prompt": "passage: "}, lambda one: one.turns[0].content[:9]),
    ],
)
def test_what_is_embedded_is_chosen_told_and_never_taken_for_other_texts(
    run, sides, tmp_path, monkeypatch, flags, made
):
    monkeypatch.chdir(tmp_path)
    Path("view.jinja").write_text("{{ messages[0].content[:9] }}")
    kept = {"embeddings": str(tmp_path / "kept")}
    run(budget=20, **kept)
    run(budget=20, **kept, **flags)
    order = np.load(tmp_path / "out" / "order.npy")
    prompts = [flags.get(f"{side}_prompt", "") for side in ("train", "test")]
    ours = [
        HashingEncoder().encode([prompt + made(one) for one in examples(sides[side])])
        for side, prompt in zip(("train", "test"), prompts, strict=True)
    ]
    np.testing.assert_array_equal(order, tmta(*ours, budget=20).order)
    facts = load_arrangement(tmp_path / "out")[1]["embedded"]
    assert [facts["train_prompt"], facts["test_prompt"]] == prompts
    assert facts["text"] == flags["text"]
    assert ("template_sha256" in facts) == (flags["text"] == "view.jinja")


UNANSWERED = {
    "prompt": (lambda p, a: {"prompt": p, "solution": a}, lambda p, a: p),
    "preference": (lambda p, a: {"prompt": p, "chosen": a, "rejected": p}, "{} {}".format),
    "text": (lambda p, a: {"text": f"{p} {a}"}, "{} {}".format),
}


@pytest.mark.parametrize("schema", UNANSWERED)
def test_rows_without_an_answer_are_arranged_and_what_is_embedded_is_told(
    run, sides, tmp_path, capsys, schema
):
    row, text = UNANSWERED[schema]
    pairs = [[turn.content for turn in one.turns] for one in examples(sides["train"])]
    train, test = tmp_path / "rows.jsonl", tmp_path / "targets.jsonl"
    train.write_text("".join(json.dumps(row(*pair)) + "\n" for pair in pairs))
    asked = [one.turns[0].content for one in examples(sides["test"])]
    test.write_text(
        "".join(json.dumps({"prompt": [{"role": "user", "content": a}]}) + "\n" for a in asked)
    )
    rows, facts = run(train=str(train), test=str(test), budget=20)
    ours = HashingEncoder().encode([text(*pair) for pair in pairs])
    expected = tmta(ours, HashingEncoder().encode(asked), budget=20)
    for one, at in zip(rows, expected.order, strict=True):
        assert one.items() >= row(*pairs[at]).items()
    facts = facts["provenance"]
    told = {"prompt": "prompt", "preference": "prompt and chosen answer", "text": "text"}[schema]
    assert (facts["train"]["embedded"], facts["test"]["embedded"]) == (told, "prompt")
    assert f"of training rows {told}; of test rows prompt" in capsys.readouterr().err
    refused = "answer" if schema == "prompt" else "prompt"
    if schema != "preference":
        with pytest.raises(UserError, match=f"rows.jsonl:1: .*{refused}"):
            run(train=str(train), test=str(test), text=refused)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"text": "promt"}, "--text='promt' is no file.*prompt"),
        ({"test_prompt": "name:query"}, "hashing has no prompt of this name; it has none"),
    ],
)
def test_a_text_or_prompt_that_is_none_is_refused(run, flags, message):
    with pytest.raises(UserError, match=message):
        run(**flags)
