import json
from pathlib import Path

import pytest

from zsg_jax.data.formats.jsonl import Record
from zsg_jax.data.schemas.registry import FIRST, SCHEMAS, check_schema, recognize
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
        Record(Path(path), number, one if isinstance(one, bytes) else json.dumps(one).encode())
        for number, one in enumerate(found, start=1)
    ]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_is_found_by_its_fields_and_no_record_is_lost(schema):
    given = rows(b"{", {}, ROWS[schema], {"other": 1}, ROWS[schema], b"[]")
    found, again = recognize(given)
    assert (found, list(again)) == (schema, given)


def test_p3_is_found_by_either_pair():
    del (only := dict(P3))["inputs"], only["targets"]
    for row in (P3, only):
        assert recognize(rows(row))[0] == "inputs_targets"


def test_records_that_cannot_be_read_do_not_count():
    given = [Record(Path("x"), 1, b"", refusal="why"), *rows(b"{", b"3")]
    found, again = recognize(given)
    assert (found, list(again)) == ("messages", given)
    assert recognize([])[0] == "messages"


def test_fields_of_no_schema_are_named_with_all_schemas():
    with pytest.raises(UserError) as caught:
        recognize(rows(b"{", {"text": "x", "label": 3}))
    message = str(caught.value)
    assert message.startswith("x.jsonl:2: its fields are 'text', 'label'")
    assert "inputs_pretokenized + targets_pretokenized or inputs + targets" in message
    assert all(schema in message for schema in SCHEMAS)
    assert "\n" not in message


def test_fields_of_several_schemas_are_named_with_the_flag():
    both = ROWS["question_answer"] | ROWS["alpaca"]
    with pytest.raises(UserError, match=r"x\.jsonl:1: could be a row of alpaca or question_answer"):
        recognize(rows(both), flag="--data-format")
    # A further row settles it.
    assert recognize(rows(both, ROWS["alpaca"]))[0] == "alpaca"


def test_records_of_different_schemas_are_refused():
    with pytest.raises(UserError, match=r"x\.jsonl:2: is a row of alpaca, but x\.jsonl:1 is "):
        recognize(rows(ROWS["messages"], ROWS["alpaca"]))


def test_the_first_row_of_every_file_must_fit():
    first = rows(*[ROWS["alpaca"]] * (FIRST + 3), path="a.jsonl")
    alike, other = rows(ROWS["alpaca"], path="b.jsonl"), rows(ROWS["messages"], path="c.jsonl")
    found, again = recognize([*first, *alike, *other])
    assert found == "alpaca"
    with pytest.raises(UserError, match=r"c\.jsonl:1: is a row of messages, but a\.jsonl:1 is "):
        list(again)
    # What is no row at all is for the reader of rows to refuse or skip.
    broken = rows(b"{", {"strange": 1}, path="c.jsonl")
    assert list(recognize([*first, *broken])[1]) == [*first, *broken]


def test_an_unknown_schema_is_refused_with_the_nearest():
    for name in ("auto", *SCHEMAS):
        check_schema(name)
    with pytest.raises(UserError, match=r"--data-format='sharegtp' is unknown; .*mean sharegpt\?"):
        check_schema("sharegtp", "--data-format")
