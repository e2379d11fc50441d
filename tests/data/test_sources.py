import gzip
import json
import os
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zsg_jax.config import default_config
from zsg_jax.data.reading import ReadOptions
from zsg_jax.data.sources import load, open_source
from zsg_jax.data.splits import Selection
from zsg_jax.runtime.errors import UserError

REWRITES = default_config().data.rewrites.to_dict()


@pytest.fixture
def loaded(tmp_path):
    """Opens two sources until the test ends."""
    with ExitStack() as stack:

        def load_sides(train, test, selection=Selection(), **options):  # noqa: B008, a constant
            return load(
                str(train),
                str(test),
                ReadOptions(tmp_path / "scratch", **options),
                stack,
                rewrites_options=REWRITES,
                selection=selection,
            )

        yield load_sides


def line(identity, task="t", answer="y"):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}]
    return json.dumps({"id": identity, "task": task, "messages": turns, "more": [1]}) + "\n"


def test_a_side_is_made_or_read_and_knows_its_skipped_records(tmp_path, loaded):
    path = tmp_path / "rows.jsonl"
    path.write_text(line("a") + "{\n")
    train, test = loaded(path, "rewrites", bad_rows="skip")
    assert [one.id for one in train] == ["a"]
    assert len(test) == 2 * REWRITES["test_rules"] * REWRITES["test_samples"]
    assert [[one.line for one in side.skipped] for side in (train, test)] == [[2], []]
    train, test = loaded("rewrites", path, bad_rows="skip")
    assert len(train) == 4 * REWRITES["rules"] * REWRITES["samples"]
    assert test.skipped_count == 1
    assert len(loaded(path, "", bad_rows="skip")[1]) == 0


def test_a_selection_is_of_both_sides(tmp_path, loaded):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(line(f"{task}{k}", task) for k in range(5) for task in "abc"))
    train, test = loaded(path, path, Selection("held-out:1", 4, 2, seed=1))
    assert [len(side) for side in (train, test)] == [8, 2]
    assert not set(train.task_names) & set(test.task_names)


def test_sides_may_be_of_different_schemas_and_the_format_holds_for_both(tmp_path, loaded):
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), tmp_path / "x.parquet")
    (tmp_path / "y.json").write_text(json.dumps([{"instruction": "c", "output": "d"}]))
    paths = tmp_path / "x.parquet", tmp_path / "y.json"
    assert [[one.text for one in side] for side in loaded(*paths)] == [["a b"], ["c d"]]
    with pytest.raises(UserError, match=r'y\.json, row 1: "question" is missing'):
        loaded(*paths, format="question_answer")


def test_files_are_open_until_the_stack_is_left_and_leave_nothing(tmp_path):
    (tmp_path / "y.json").write_text(json.dumps([{"instruction": "c", "output": "d"}]))
    before = set(os.listdir("/proc/self/fd"))
    options = ReadOptions(tmp_path / "scratch")
    with ExitStack() as stack:
        train, test = load(*[str(tmp_path / "y.json")] * 2, options, stack, rewrites_options={})
        assert train[0] == test[0]
        assert (tmp_path / "scratch").is_dir()
    assert set(os.listdir("/proc/self/fd")) == before
    assert not (tmp_path / "scratch").exists()


def test_what_a_user_got_wrong_about_a_source_is_said_before_its_records(tmp_path, loaded):
    (tmp_path / "rows.jsonl").write_text('{"ask": "a", "reply": "b"}\n' * 3)
    (tmp_path / "rows.csv").write_text("ask,reply\na,b\n")
    (tmp_path / "rows.array_record").write_bytes(b"\x80")
    (tmp_path / "task.json").write_text('{\n "Definition": ["do"]\n}')
    fields = {"question": "ask", "answer": "reply"}
    for name, options, message in (
        ("rows.jsonl", {}, "say which they are by --config"),
        ("rows.jsonl", {"fields": fields | {"answer": "no"}}, r"rows\.jsonl:1: has no field 'no'"),
        ("rows.csv", {}, "tables of text are not read"),
        ("rows.array_record", {}, "ArrayRecord files are not read one by one"),
        ("task.json", {}, "give the list that names the tasks"),
    ):
        with pytest.raises(UserError, match=message):
            loaded(tmp_path / name, "", **options)
    assert loaded(tmp_path / "rows.jsonl", "", fields=fields)[0][0].text == "a b"


def test_a_source_may_lack_an_old_name_that_another_has(tmp_path, loaded, capsys):
    tools = {"prompt": "a", "completion": "b", "tools": ["saw"]}
    (tmp_path / "train.jsonl").write_text(f"{json.dumps(tools)}\n" * 3)
    (tmp_path / "test.jsonl").write_text('{"prompt": "c", "completion": "d"}\n')
    (tmp_path / "both.mix.json").write_text(
        '{"sources": [{"path": "test.jsonl"}, {"path": "train.jsonl"}]}'
    )
    names = "train.jsonl", "test.jsonl", "both.mix.json"
    one, other, mixture = (tmp_path / name for name in names)
    told = f"{other}: none of its first rows has 'tools', which"
    for train, test in ((one, other), (other, one), (mixture, other)):
        train_set, test_set = loaded(train, test, fields={"other": "tools"})
        assert {row.text for row in (*train_set, *test_set)} == {"a b", "c d"}
        assert capsys.readouterr().err.count(told) == 1
    with open_source(mixture, ReadOptions(tmp_path, fields={"other": "tools"})) as mixed:
        assert len(mixed) == 4
    for train, test in ((one, other), (other, one), (mixture, mixture)):
        with pytest.raises(UserError, match="has no field 'tolls' that could be renamed"):
            loaded(train, test, fields={"more": "tolls", "other": "tools"})
    with pytest.raises(UserError, match="has no field 'tools'"):
        loaded(other, "", fields={"other": "tools"})


def test_a_list_of_tasks_stands_beside_rows_with_names_of_their_own(tmp_path, loaded):
    listed = tmp_path / "splits" / "own" / "test_tasks.txt"
    for folder in (listed.parent, tmp_path / "tasks"):
        folder.mkdir(parents=True)
    listed.write_text("task1_x\n")
    task = {
        "Definition": ["do"],
        "Positive Examples": [],
        "Negative Examples": [],
        "Categories": ["c"],
        "Instances": [{"id": "task1-0", "input": "x", "output": ["y"]}],
    }
    (tmp_path / "tasks" / "task1_x.json").write_text(json.dumps(task))
    (tmp_path / "rows.jsonl").write_text('{"ask": "a", "completion": "b"}\n')
    train, test = loaded(tmp_path / "rows.jsonl", listed, fields={"prompt": "ask"})
    assert train[0].text == "a b"
    assert len(test) > 0
    with pytest.raises(UserError, match="form of their own"):
        loaded(listed, listed, fields={"prompt": "ask"})


@pytest.fixture
def mixed(tmp_path):
    """Opens a mixture of two files that share their ids and a task."""
    (tmp_path / "one.jsonl").write_text(
        "".join(line(f"i{k}", "ab"[k % 2], f"one {k}") for k in range(6))
    )
    (tmp_path / "two.jsonl.gz").write_bytes(
        gzip.compress("".join(line(f"i{k}", "bc"[k % 2], f"two {k}") for k in range(4)).encode())
    )
    pairs = [{"question": "x", "answer": f"three {k}", "id": f"i{k}"} for k in range(4)]
    pairs[1]["answer_choices"] = "three 1 ||| three 2"
    (tmp_path / "three.json").write_text(json.dumps(pairs))

    def make(*sources, **options):
        path = tmp_path / "m.mix.json"
        path.write_text(json.dumps({"sources": sources}))
        return open_source(path, ReadOptions(tmp_path / "scratch", **options))

    return make


ONE, TWO = {"path": "one.jsonl", "cap": 4}, {"path": "two.jsonl.gz"}


@pytest.mark.parametrize("keep_all", [False, True])
def test_a_mixture_has_the_examples_of_its_sources(mixed, tmp_path, capsys, keep_all, read_source):
    with mixed(ONE, TWO, keep_all=keep_all) as dataset:
        instances = list(dataset)
        assert len(dataset) == len({one.id for one in instances}) == 8
        assert dataset.ids == [one.id for one in instances]
        for number, one in enumerate(instances):
            name, identity = one.id.split("/")
            file = tmp_path / {"one": "one.jsonl", "two": "two.jsonl.gz"}[name]
            whole = {own.id: own for own in read_source(file)[0]}
            assert one.turns == whole[identity].turns
            assert dataset.task_names[number] == one.task == whole[identity].task
            assert dataset.numbers[number] == int(identity[1:]) + 1
        # What is written out of a mixture is read again as it was.
        again = tmp_path / "again.jsonl"
        again.write_bytes(b"".join(dataset.raw(k) + b"\n" for k in range(8)))
        assert read_source(again)[0] == instances
        assert all(json.loads(dataset.raw(k))["more"] == [1] for k in range(8))
    assert "m.mix.json: 8 rows mixed: one 4 of 6, two 4 of 4" in capsys.readouterr().err


def test_schemas_that_differ_become_messages_with_what_an_instance_has(
    mixed, tmp_path, read_source
):
    three = {"path": "three.json"}
    with mixed(ONE, three) as dataset:
        assert dataset.schema == "messages"
        raw = [dataset.raw(k) for k in range(8)]
        again = tmp_path / "again.jsonl"
        again.write_bytes(b"\n".join(raw))
        assert read_source(again)[0] == list(dataset)
        kept = ["more" in json.loads(one) for one in raw]
        assert kept == [one.startswith("one") for one in dataset.ids]
        assert [one.id for one in dataset if one.choices] == ["three/i1"]
    with mixed(three, three | {"name": "four"}) as dataset:
        assert dataset.schema == "question_answer"
        assert [json.loads(dataset.raw(k))["id"] for k in range(8)] == dataset.ids


def test_an_error_names_the_mixture_and_the_entry(mixed, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{\n")
    for path, reason in (
        ("none.jsonl", "no such file"),
        ("bad.jsonl", r"bad\.jsonl:1: is not JSON"),
    ):
        with pytest.raises(UserError, match=rf"m\.mix\.json: sources\[1\] \('two'\): .*{reason}"):
            mixed(ONE, {"path": path, "name": "two"})
