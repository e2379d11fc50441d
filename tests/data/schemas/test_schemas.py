import json
from pathlib import Path

import pytest

from zsg_jax.data.formats.jsonl import Record
from zsg_jax.data.schemas.registry import FIRST, SCHEMAS, check_schema, recognize
from zsg_jax.runtime.errors import UserError

SHOWN = {
    "messages": {"messages": [], "id": "1", "prompt": "x"},
    "sharegpt": {"conversations": [], "id": "1", "source": "flan2021"},
    "alpaca": {"instruction": "x", "input": "", "output": "y"},
    "prompt_completion": {"prompt": "x", "completion": "y"},
    "question_answer": {"question": "x", "answer": "y", "answers": ["y"]},
    "inputs_targets": {"inputs": "x", "targets": "y"},
    "preference": {"prompt": "x", "chosen": "y", "rejected": "z"},
    "prompt": {"prompt": "x", "text": "y"},
    "text": {"text": "x", "label": 1},
}


def records(*found, path="x.jsonl"):
    return [
        Record(Path(path), number, one if isinstance(one, bytes) else json.dumps(one).encode())
        for number, one in enumerate(found, start=1)
    ]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_is_found_by_its_fields_and_no_record_is_lost(schema):
    given = records(b"{", {}, SHOWN[schema], {"other": 1}, SHOWN[schema], b"[]")
    found, again = recognize(given)
    assert (found, list(again)) == (schema, given)


def test_p3_is_found_by_either_pair():
    only = {"inputs_pretokenized": "x", "targets_pretokenized": "y"}
    for one in (only, only | {"inputs": [1], "targets": [2]}):
        assert recognize(records(one))[0] == "inputs_targets"


def test_records_without_an_answer_do_not_count_beside_others():
    given = records({"text": "x"}, {"prompt": "x"}, SHOWN["prompt_completion"])
    assert recognize(given)[0] == "prompt_completion"


@pytest.mark.parametrize("other", ["prompt_completion", "preference", "messages"])
def test_a_late_record_of_another_schema_is_no_prompt_alone(other):
    prompts = [{"prompt": "x"}] * FIRST + [{"prompt": "x", "completion": None}, SHOWN["prompt"]]
    given = records(*prompts, SHOWN[other], {"note": "x"})
    schema, found = recognize(given)
    assert schema == "prompt"
    found = list(found)
    assert found[-1] == given[-1]
    assert found[:-2] == given[:-2]
    told = found[-2].refusal
    assert f"is a row of {other}, but x.jsonl:1 is one of prompt; " in told
    assert "--config.data.format=prompt" in told


def test_records_that_cannot_be_read_do_not_count():
    given = [Record(Path("x"), 1, b"", refusal="why"), *records(b"{", b"3")]
    found, again = recognize(given)
    assert (found, list(again)) == ("messages", given)
    assert recognize([])[0] == "messages"


def test_what_is_of_no_schema_or_of_several_is_told():
    both = SHOWN["question_answer"] | SHOWN["alpaca"]
    for given, message in (
        (records(b"{", {"words": "x"}), r"x\.jsonl:2: its fields are 'words'.*inputs \+ targets"),
        (records(both), r"x\.jsonl:1: could be a row of alpaca or question_answer"),
        (records(SHOWN["messages"], SHOWN["alpaca"]), r":2: is a row of alpaca, but x\.jsonl:1"),
    ):
        with pytest.raises(UserError, match=message):
            recognize(given)
    # A further record settles it.
    assert recognize(records(both, SHOWN["alpaca"]))[0] == "alpaca"


def test_an_unknown_schema_is_refused_with_the_nearest():
    for name in ("auto", *SCHEMAS):
        check_schema(name)
    with pytest.raises(UserError, match=r"data\.format='sharegtp' is unknown; .*mean sharegpt\?"):
        check_schema("sharegtp")
