import gzip
import json

import pytest

from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.read import NO_TASK, read_messages
from zsg_jax.runtime.errors import UserError


def row(**changes):
    base = {
        "id": "a",
        "task": "t",
        "messages": [
            {"role": "user", "content": "Capital of France?"},
            {"role": "assistant", "content": "Paris"},
        ],
    }
    base.update(changes)
    return {key: value for key, value in base.items() if value is not ...}


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def write(path, *lines):
    data = b"".join(
        (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines
    )
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_reads_rows_and_fills_in_id_and_task(tmp_path, name):
    system = turns(("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"))
    path = write(tmp_path / name, row(), b"", row(id=..., task=...), row(id=7, messages=system))
    instances, skipped = read_messages(path)
    assert not skipped
    assert [one.id for one in instances] == ["a", f"{name}:3", "7"]
    assert [one.task for one in instances] == ["t", NO_TASK, "t"]
    assert instances[0].turns == (
        Turn("user", "Capital of France?"),
        Turn("assistant", "Paris"),
    )
    assert instances[0].references == ("Paris",)
    assert instances[0].text == "Capital of France? Paris"
    assert instances[2].turns[0] == Turn("system", "Be brief.")


BAD = {
    "not JSON": (b'{"id": "b", "messages": [', "is not JSON"),
    "not an object": (b"[1, 2]", "JSON list, not an object"),
    "null": (b"null", "JSON null"),
    "not UTF-8": (b'{"id": "caf\xe9"}', "not UTF-8"),
    "deep": (b"[" * 100_000, "not JSON"),
    "huge number": (b'{"id": ' + b"9" * 5000 + b"}", "not JSON"),
    "lone surrogate": (
        b'{"messages": [{"role": "user", "content": "x\\ud800"},'
        b' {"role": "assistant", "content": "y"}]}',
        r"lone surrogate, \ud800",
    ),
    "surrogate in id": (row(id="\udfff"), "lone surrogate"),
    "no messages": (row(messages=...), '"messages" is missing'),
    "messages no list": (row(messages={"role": "user"}), "JSON object, not a list"),
    "no turns": (row(messages=[]), '"messages" is empty'),
    "turn no object": (row(messages=["hello"]), "messages[0]"),
    "content missing": (row(messages=[{"role": "user"}]), '"messages[0].content" is missing'),
    "content null": (row(messages=turns(("user", None))), "JSON null, not a string"),
    "content number": (row(messages=turns(("user", 3))), "JSON number, not a string"),
    "empty turn": (row(messages=turns(("user", " \n"), ("assistant", "y"))), "is empty"),
    "role unknown": (row(messages=turns(("human", "x"), ("assistant", "y"))), "'human'"),
    "role a list": (row(messages=turns((["user"], "x"))), "must stand"),
    "assistant first": (row(messages=turns(("assistant", "x"), ("user", "y"))), "'user' must"),
    "twice user": (row(messages=turns(("user", "x"), ("user", "y"))), "messages[1].role"),
    "no answer": (
        row(messages=turns(("user", "x"), ("assistant", "y"), ("user", "z"))),
        "no answer to learn",
    ),
    "only a system turn": (row(messages=turns(("system", "x"))), "no answer to learn"),
    "system later": (
        row(messages=turns(("user", "x"), ("assistant", "y"), ("system", "z"))),
        "'system' where 'user'",
    ),
    "id a list": (row(id=["b"]), '"id" is a JSON list'),
    "id true": (row(id=True), '"id" is a JSON boolean'),
    "id with a line break": (row(id="b\nc"), "line break"),
    "task a number": (row(task=1), '"task" is a JSON number'),
    "references a string": (row(references="Paris"), '"references" is a JSON string, not a list'),
    "references null": (row(references=None), '"references" is a JSON null'),
    "reference a number": (row(references=["Paris", 3]), '"references[1]" is a JSON number'),
    "reference empty": (row(references=[" "]), '"references[0]" is empty'),
    "id twice": (row(), "\"id\" 'a' was already used on line 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_by_file_line_and_reason(tmp_path, name):
    bad, reason = BAD[name]
    path = write(tmp_path / "train.jsonl", row(), bad, row(id="c"))
    with pytest.raises(UserError) as caught:
        read_messages(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert reason in message
    assert "--config.data.bad_rows=skip" in message
    assert "\n" not in message
    message.encode()  # can be printed

    instances, skipped = read_messages(path, "skip")
    assert [one.id for one in instances] == ["a", "c"]
    assert [(one.path, one.line) for one in skipped] == [(str(path), 2)]
    assert reason in skipped[0].reason


def test_a_file_without_instances_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no instance"):
        read_messages(write(tmp_path / "empty.jsonl"))
    with pytest.raises(UserError, match="all 2 rows were bad"):
        read_messages(write(tmp_path / "bad.jsonl", b"{", b"}"), "skip")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_messages(tmp_path / "nope.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read_messages(tmp_path)
    whole = write(tmp_path / "x.jsonl.gz", *[row(id=str(i)) for i in range(2000)])
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(UserError, match="damaged gzip after line"):
        read_messages(whole, "skip")
    (tmp_path / "plain.gz").write_bytes(b"not gzip at all")
    with pytest.raises(UserError, match="damaged gzip"):
        read_messages(tmp_path / "plain.gz")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(row()).encode() + b"\r\n")
    assert read_messages(path)[0][0].id == "a"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ("Paris",)),
        (["Paris", "paris"], ("Paris", "paris")),
        (["paris", "Paris"], ("Paris", "paris")),
        (["PARIS", "paris", "PARIS"], ("Paris", "PARIS", "paris")),
    ],
)
def test_references_begin_with_the_answer_and_come_once(tmp_path, given, expected):
    path = write(tmp_path / "x.jsonl", row(references=given))
    assert read_messages(path)[0][0].references == expected
