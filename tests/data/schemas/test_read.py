import dataclasses
import gzip
import json

import pytest

from zsg_jax.data.dataset import as_record
from zsg_jax.data.instance import Turn, instances_digest
from zsg_jax.data.schemas.read import NO_TASK, BadRow, each_once, parse
from zsg_jax.runtime.errors import UserError

MESSAGES = [
    {"role": "user", "content": "Capital of France?"},
    {"role": "assistant", "content": "Paris"},
]


def record(**changes):
    base = {"id": "a", "task": "t", "messages": MESSAGES} | changes
    return {key: value for key, value in base.items() if value is not ...}


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def said(*pairs):
    return record(messages=turns(*pairs))


def write(path, *lines):
    data = b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_reads_records_and_fills_in_id_and_task(tmp_path, read_source, name):
    system = turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"))
    lines = record(), b"", record(id=..., task=...), record(id=7, messages=system)
    instances, skipped = read_source(write(tmp_path / name, *lines))
    assert not skipped
    assert [one.id for one in instances] == ["a", f"{name}:3", "7"]
    assert [one.task for one in instances] == ["t", NO_TASK, "t"]
    assert instances[0].turns == (Turn("user", "Capital of France?"), Turn("assistant", "Paris"))
    assert instances[0].references == ("Paris",)
    assert instances[0].text == "Capital of France? Paris"
    assert instances[2].turns[0] == Turn("system", "Be brief.")


def test_a_category_groups_scores_and_changes_no_digest(tmp_path, read_source):
    told = [{}, {"category": " QA "}, {"categories": []}, {"Categories": ["A", "B"]}]
    told += [{"category": 3}, {"category": 0.0}, {"category": {"A": True}}]
    lines = [record(id=str(n), **fields) for n, fields in enumerate(told)]
    instances, _ = read_source(write(tmp_path / "x.jsonl", *lines))
    assert [one.category for one in instances] == ["", "QA", "", "A", "3", "0", ""]
    plain = [dataclasses.replace(one, category="") for one in instances]
    assert instances_digest(instances) == instances_digest(plain)
    again = write(tmp_path / "y.jsonl", *map(as_record, instances))
    assert read_source(again)[0] == instances


ASK, ANSWER = ("user", "x"), ("assistant", "y")
BAD = {
    "not JSON": (b'{"id": "b", "messages": [', "is not JSON"),
    "a name twice": (b'{"id": "b", "prompt": "x", "prompt": "y"}', 'names "prompt" twice'),
    "not an object": (b"[1, 2]", "JSON list, not an object"),
    "null": (b"null", "JSON null"),
    "not UTF-8": (b'{"id": "caf\xe9"}', "not UTF-8"),
    "deep": (b"[" * 100_000, "not JSON"),
    "huge number": (b'{"id": ' + b"9" * 5000 + b"}", "not JSON"),
    "lone surrogate": (said(("user", "x\ud800"), ANSWER), r"lone surrogate, \ud800"),
    "surrogate in id": (record(id="\udfff"), "lone surrogate"),
    "no messages": (record(messages=...), '"messages" is missing'),
    "messages no list": (record(messages={"role": "user"}), "JSON object, not a list"),
    "no turns": (record(messages=[]), '"messages" is empty'),
    "turn no object": (record(messages=["hello"]), "messages[0]"),
    "content missing": (record(messages=[{"role": "user"}]), '"messages[0].content" is missing'),
    "content null": (said(("user", None)), "JSON null, not a string"),
    "empty turn": (said(("user", " \n"), ANSWER), "is empty"),
    "role unknown": (said(("human", "x"), ANSWER), "'human'"),
    "role a list": (said((["user"], "x")), "must stand"),
    "assistant first": (said(ANSWER, ASK), "'user' must"),
    "twice user": (said(ASK, ASK), "messages[1].role"),
    "no answer": (said(ASK, ANSWER, ASK), "no answer to learn"),
    "only a system turn": (said(("system", "x")), "no answer to learn"),
    "system later": (said(ASK, ANSWER, ("system", "z")), "'system' where 'user'"),
    "id a list": (record(id=["b"]), '"id" is a JSON list'),
    "id true": (record(id=True), '"id" is a JSON boolean'),
    "id with a line break": (record(id="b\nc"), "line break"),
    "task a list": (record(task=[1]), '"task" is a JSON list'),
    "task a fraction": (record(task=0.5), '"task" is a JSON number, not a string or whole number'),
    "references a string": (record(references="Paris"), '"references" is a JSON string, not a li'),
    "reference a number": (record(references=["Paris", 3]), '"references[1]" is a JSON number'),
    "reference empty": (record(references=[" "]), '"references[0]" is empty'),
    "choices a number": (record(choices=3), '"choices" is a JSON number, not a list'),
    "choices of another kind": (record(choices={"text": ["Paris", "Rome"]}), "other=choices"),
    "choice a number": (record(choices=["Paris", 3]), '"choices[1]" is a JSON number'),
    "one choice": (record(choices=["Paris"]), "two or more"),
    "answer no choice": (record(choices=["paris", "Rome"]), "'Paris' is none of \"choices\""),
    "answer no choice of T0": (record(answer_choices="a ||| b"), 'none of "answer_choices"'),
    "id twice": (record(), "\"id\" 'a' was already used on line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_by_file_line_and_reason(tmp_path, read_source, name):
    bad, reason = BAD[name]
    path = write(tmp_path / "train.jsonl", record(), bad, record(id="c"))
    with pytest.raises(UserError) as caught:
        read_source(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert reason in message
    assert "--config.data.bad_rows=skip" in message
    assert "\n" not in message
    message.encode()  # can be printed
    instances, skipped = read_source(path, "skip")
    assert [one.id for one in instances] == ["a", "c"]
    assert [(one.path, one.line) for one in skipped] == [(str(path), 2)]
    assert reason in skipped[0].reason


def test_files_that_give_nothing_are_refused(tmp_path, read_source):
    whole = write(tmp_path / "x.jsonl.gz", *[record(id=str(i)) for i in range(2000)])
    whole.write_bytes(whole.read_bytes()[:-40])
    (tmp_path / "plain.gz").write_bytes(b"not gzip at all")
    (tmp_path / "folder").mkdir()
    for path, bad_rows, message in (
        (write(tmp_path / "empty.jsonl"), "refuse", "holds no instance"),
        (write(tmp_path / "bad.jsonl", b"{", b"}"), "skip", "all 2 rows were bad"),
        (tmp_path / "nope.jsonl", "refuse", "no such file"),
        (tmp_path / "folder", "refuse", "is a folder"),
        (whole, "skip", "damaged gzip after line"),
        (tmp_path / "plain.gz", "refuse", "damaged gzip"),
    ):
        with pytest.raises(UserError, match=message):
            read_source(path, bad_rows)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path, read_source):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record()).encode() + b"\r\n")
    assert read_source(path)[0][0].id == "a"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ()),
        ({"choices": None}, ()),
        ({"choices": []}, ()),
        ({"choices": ["Rome", "Paris"]}, ("Rome", "Paris")),
        ({"choices": ["Rome ", " Paris\n", "Paris"]}, ("Rome ", " Paris\n", "Paris")),
        ({"answer_choices": ["Paris", "Rome"]}, ("Paris", "Rome")),
        ({"answer_choices": "Rome ||| Paris|||São Paulo"}, ("Rome", "Paris", "São Paulo")),
        ({"choices": ["Paris", "Rome"], "answer_choices": "a ||| b"}, ("Paris", "Rome")),
        ({"choices": None, "answer_choices": "Paris ||| b"}, ("Paris", "b")),
    ],
)
def test_choices_are_a_list_or_what_t0_writes(tmp_path, read_source, given, expected):
    (found,) = read_source(write(tmp_path / "x.jsonl", record(**given)))[0]
    assert found.choices == expected
    assert not expected or expected[found.right].strip() == "Paris"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ("Paris",)),
        (["paris", "Paris"], ("Paris", "paris")),
        (["PARIS", "paris", "PARIS"], ("Paris", "PARIS", "paris")),
    ],
)
def test_references_begin_with_the_answer_and_come_once(tmp_path, read_source, given, expected):
    path = write(tmp_path / "x.jsonl", record(references=given))
    assert read_source(path)[0][0].references == expected


@pytest.mark.parametrize("name", ["id", "task", "references"])
def test_null_means_missing(name):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    without = parse(json.dumps(row).encode(), "f:1")
    assert parse(json.dumps({**row, name: None}).encode(), "f:1") == without
    assert parse(json.dumps({**row, "task": 7}).encode(), "f:1").task == "7"


def test_of_a_file_on_both_sides_what_is_left_out_counts_once():
    bad = [BadRow("a.jsonl", line, "empty") for line in (3, 9)]
    assert each_once(bad, bad) == bad
    other = BadRow("b.jsonl", 3, "empty")
    assert each_once(bad, [other, bad[0]]) == [*bad, other]
