import json
from pathlib import Path

import pytest

from zsg_jax.data.formats.jsonl import Row
from zsg_jax.data.schemas import FIRST, KINDS, check_kind, recognize
from zsg_jax.runtime.errors import UserError

ROWS = {
    "messages": {"messages": [], "id": "1", "prompt": "x"},
    "sharegpt": {"conversations": [], "id": "1", "source": "flan2021"},
    "alpaca": {"instruction": "x", "input": "", "output": "y"},
    "prompt_completion": {"prompt": "x", "completion": "y"},
    "question_answer": {"question": "x", "answer": "y", "answers": ["y"]},
    "inputs_targets": {"inputs": "x", "targets": "y"},
}
P3 = {"inputs": [1], "inputs_pretokenized": "x", "targets": [2], "targets_pretokenized": "y"}


def rows(*found, path="x.jsonl"):
    return [
        Row(Path(path), number, one if isinstance(one, bytes) else json.dumps(one).encode())
        for number, one in enumerate(found, start=1)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_told_by_its_fields_and_no_row_is_lost(kind):
    given = rows(b"{", {}, ROWS[kind], {"other": 1}, ROWS[kind], b"[]")
    told, again = recognize(given)
    assert (told, list(again)) == (kind, given)


def test_p3_is_told_by_either_pair():
    del (only := dict(P3))["inputs"], only["targets"]
    for row in (P3, only):
        assert recognize(rows(row))[0] == "inputs_targets"


def test_rows_that_cannot_be_read_have_no_say():
    given = [Row(Path("x"), 1, b"", refusal="why"), *rows(b"{", b"3")]
    told, again = recognize(given)
    assert (told, list(again)) == ("messages", given)
    assert recognize([])[0] == "messages"


def test_fields_of_no_kind_are_named_with_all_kinds():
    with pytest.raises(UserError) as caught:
        recognize(rows(b"{", {"text": "x", "label": 3}))
    said = str(caught.value)
    assert said.startswith("x.jsonl:2: its fields are 'text', 'label', which make no kind of row (")
    assert "alpaca: instruction + output" in said
    assert "inputs_pretokenized + targets_pretokenized or inputs + targets" in said
    assert all(kind in said for kind in KINDS)
    assert "\n" not in said


def test_fields_of_several_kinds_are_named_with_the_flag():
    both = ROWS["question_answer"] | ROWS["alpaca"]
    with pytest.raises(UserError) as caught:
        recognize(rows(both), flag="--data-format")
    said = str(caught.value)
    assert said.startswith("x.jsonl:1: could be a row of alpaca or question_answer (its fields ar")
    assert "'question', 'answer', 'answers', 'instruction'" in said
    assert said.endswith("say which by --data-format=KIND")
    # A further row settles it.
    assert recognize(rows(both, ROWS["alpaca"]))[0] == "alpaca"


def test_rows_of_different_kinds_are_refused():
    with pytest.raises(UserError, match=r"x\.jsonl:2: is a row of alpaca, but x\.jsonl:1 is one o"):
        recognize(rows(ROWS["messages"], ROWS["alpaca"]))


def test_the_first_row_of_every_file_must_fit():
    first = rows(*[ROWS["alpaca"]] * (FIRST + 3), path="a.jsonl")
    alike, other = rows(ROWS["alpaca"], path="b.jsonl"), rows(ROWS["messages"], path="c.jsonl")
    told, again = recognize([*first, *alike, *other])
    assert told == "alpaca"
    with pytest.raises(UserError, match=r"c\.jsonl:1: is a row of messages, but a\.jsonl:1 is one"):
        list(again)
    # What is no row at all is for the reader of rows to refuse or skip.
    broken = rows(b"{", {"strange": 1}, path="c.jsonl")
    assert list(recognize([*first, *broken])[1]) == [*first, *broken]


def test_an_unknown_kind_is_refused_with_the_nearest():
    for name in ("auto", *KINDS):
        check_kind(name)
    with pytest.raises(UserError, match=r"--data-format='sharegtp' is unknown; .*mean sharegpt\?"):
        check_kind("sharegtp", "--data-format")
