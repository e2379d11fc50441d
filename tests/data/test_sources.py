import json
import os
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zsg_jax.config import default_config
from zsg_jax.data.sources import load
from zsg_jax.runtime.errors import UserError

OPTIONS = default_config().data.rewrites.to_dict()


def test_a_side_is_made_or_read_and_skipped_rows_of_both_are_told(tmp_path):
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n{\n")
    train, test, skipped = load(str(path), "rewrites", bad_rows="skip", rewrites_options=OPTIONS)
    assert [one.id for one in train] == ["rows.jsonl:1"]
    assert len(test) == 2 * OPTIONS["test_rules"] * OPTIONS["test_samples"]
    assert [row.line for row in skipped] == [2]
    train, test, skipped = load("rewrites", str(path), bad_rows="skip", rewrites_options=OPTIONS)
    assert len(train) == 4 * OPTIONS["rules"] * OPTIONS["samples"]
    assert len(skipped) == 1


def test_no_rule_of_the_test_set_stands_in_the_pool():
    train, test, _ = load("rewrites", "rewrites", bad_rows="refuse", rewrites_options=OPTIONS)
    rules = [{one.turns[0].content.split(" ")[0] for one in side} for side in (train, test)]
    assert not rules[0] & rules[1]


def test_sides_may_be_of_different_kinds_and_the_format_holds_for_both(tmp_path):
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), tmp_path / "x.parquet")
    (tmp_path / "y.json").write_text(json.dumps([{"instruction": "c", "output": "d"}]))
    paths = str(tmp_path / "x.parquet"), str(tmp_path / "y.json")
    train, test, _ = load(*paths, bad_rows="refuse", rewrites_options=OPTIONS)
    assert [[one.text for one in side] for side in (train, test)] == [["a b"], ["c d"]]
    with pytest.raises(
        UserError,
        match=r"y\.json, row 1: is a row of alpaca, not of question_answer; leave --config",
    ):
        load(*paths, bad_rows="refuse", rewrites_options=OPTIONS, format="question_answer")


def test_files_are_open_until_the_stack_is_left_and_leave_nothing(tmp_path):
    (tmp_path / "y.json").write_text(json.dumps([{"instruction": "c", "output": "d"}]))
    before = set(os.listdir("/proc/self/fd"))
    with ExitStack() as stack:
        train, test, _ = load(
            *[str(tmp_path / "y.json")] * 2,
            bad_rows="refuse",
            rewrites_options=OPTIONS,
            scratch=tmp_path / "scratch",
            stack=stack,
        )
        assert train[0] == test[0]
        assert (tmp_path / "scratch").is_dir()
    assert set(os.listdir("/proc/self/fd")) == before
    assert not (tmp_path / "scratch").exists()


def test_what_a_user_got_wrong_about_a_source_is_said_before_its_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"ask": "a", "reply": "b"}\n' * 3)
    (tmp_path / "rows.csv").write_text("ask,reply\na,b\n")
    (tmp_path / "task.json").write_text('{\n "Definition": ["do"]\n}')

    def given(name, **options):
        path = str(tmp_path / name)
        return load(path, path, bad_rows="refuse", rewrites_options=OPTIONS, **options)

    with pytest.raises(UserError, match="say which they are by --config"):
        given("rows.jsonl")
    wrong = {"question": "ask", "answer": "replies"}
    with pytest.raises(UserError, match=r"rows\.jsonl:1: has no field 'replies' that could be"):
        given("rows.jsonl", fields=wrong)
    train, _, _ = given("rows.jsonl", fields=wrong | {"answer": "reply"})
    assert train[0].text == "a b"
    with pytest.raises(UserError, match="tables of text are not read; write it as JSON lines"):
        given("rows.csv")
    with pytest.raises(UserError, match=r"give the list that names the tasks, splits/NAME/train_t"):
        given("task.json")
