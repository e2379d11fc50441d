import json

import pytest

from zsg_jax.data.formats.jsonl import Refused
from zsg_jax.data.instance import Turn
from zsg_jax.data.schemas.registry import SCHEMAS

HI, HO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
DO = {"instruction": "Do", "output": "ok"}
SYSTEM = {"role": "system", "content": "s"}


def pair(prompt, answer):
    return Turn("user", prompt), Turn("assistant", answer)


@pytest.mark.parametrize(
    ("schema", "record", "expected"),
    [
        ("alpaca", DO | {"input": "this"}, pair("Do\n\nthis", "ok")),
        ("alpaca", DO | {"instruction": "Do ", "input": " x\n"}, pair("Do \n\n x\n", "ok")),
        ("alpaca", DO | {"input": " \n"}, pair("Do", "ok")),
        ("alpaca", DO | {"input": None, "history": []}, pair("Do", "ok")),
        ("alpaca", DO | {"system": "s"}, (Turn("system", "s"), *pair("Do", "ok"))),
        ("prompt_completion", {"prompt": "a ", "completion": " b"}, pair("a ", " b")),
        (
            "prompt_completion",
            {"prompt": [SYSTEM, HI, HO, HI], "completion": [HO]},
            (Turn("system", "s"), *pair("Hi", "Ho"), *pair("Hi", "Ho")),
        ),
        ("question_answer", {"question": "a?", "answer": "b"}, pair("a?", "b")),
        ("inputs_targets", {"inputs": "a", "targets": "\nb"}, pair("a", "\nb")),
        (
            "inputs_targets",
            {
                "inputs": [1],
                "inputs_pretokenized": "a",
                "targets": [2],
                "targets_pretokenized": "b",
            },
            pair("a", "b"),
        ),
    ],
)
def test_a_record_becomes_its_turns(schema, record, expected):
    assert SCHEMAS[schema].turns(record) == expected


TOOL = {"type": "function", "function": {"name": "f"}}
RECORDS = {
    "messages": {"messages": [HI, HO]},
    "sharegpt": {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    "alpaca": DO,
    "prompt_completion": {"prompt": "a", "completion": "b"},
    "question_answer": {"question": "a", "answer": "b"},
    "inputs_targets": {"inputs": "a", "targets": "b"},
    "preference": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "prompt": {"prompt": "a"},
}
LISTS = [
    ("prompt_completion", {"prompt": [HI], "completion": [HO]}),
    ("preference", {"prompt": [HI], "chosen": [HO], "rejected": [HO]}),
    ("preference", {"chosen": [HI, HO], "rejected": [HI, HO]}),
    ("prompt", {"prompt": [HI]}),
]


@pytest.mark.parametrize(("schema", "record"), [*RECORDS.items(), *LISTS])
def test_tools_and_a_system_field_stand_first_in_every_schema(schema, record):
    turns, plain = SCHEMAS[schema].turns, SCHEMAS[schema].turns(record)
    for empty in (None, "", " "):
        assert turns(record | {"system": empty}) == plain
    system = (Turn("system", "s"), *plain)
    assert turns(record | {"system": "s"}) == system
    tools = turns(record | {"system": "s", "tools": [TOOL]})
    assert (tools[0].role, tools[1:]) == ("tools", system)
    assert json.loads(tools[0].content) == [TOOL]


@pytest.mark.parametrize(("schema", "record"), [("messages", RECORDS["messages"]), *LISTS])
def test_a_system_field_may_say_what_the_messages_say(schema, record):
    name = next(iter(record))
    own = record | {name: [SYSTEM, *record[name]]}
    turns = SCHEMAS[schema].turns
    assert turns(own | {"system": "s"}) == turns(own)
    with pytest.raises(Refused, match=rf'"system" and "{name}\[0\]'):
        turns(own | {"system": "other"})


@pytest.mark.parametrize(
    "schema", ["alpaca", "prompt_completion", "question_answer", "inputs_targets", "prompt"]
)
def test_earlier_turns_that_would_be_lost_are_refused(schema):
    turns, record = SCHEMAS[schema].turns, RECORDS[schema]
    assert turns(record | {"history": []}) == turns(record)
    with pytest.raises(Refused, match='"history" is not read'):
        turns(record | {"history": [["a", "b"]]})


@pytest.mark.parametrize(
    ("schema", "prompt", "answer"),
    [
        ("alpaca", "instruction", "output"),
        ("prompt_completion", "prompt", "completion"),
        ("question_answer", "question", "answer"),
        ("inputs_targets", "inputs", "targets"),
        ("inputs_targets", "inputs_pretokenized", "targets_pretokenized"),
    ],
)
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (..., "is missing (there are: "),
        (None, "is a JSON null, not a string"),
        ({}, "is a JSON object, not a string"),
        (" \n", "is empty"),
        ("\ud800", "lone surrogate"),
    ],
)
def test_what_is_no_text_is_refused_by_its_name(schema, prompt, answer, value, reason):
    for name in (prompt, answer):
        record = {prompt: "x", answer: "y"} | {name: value}
        if value is ...:
            del record[name]
        with pytest.raises(Refused) as caught:
            SCHEMAS[schema].turns(record)
        assert str(caught.value).startswith(f'"{name}" ')
        assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "record", "reason"),
    [
        ("alpaca", DO | {"input": 3}, '"input" is a JSON number'),
        ("alpaca", DO | {"input": 0}, '"input" is a JSON number'),
        ("alpaca", DO | {"input": ["z"]}, '"input" is a JSON list'),
        ("alpaca", DO | {"system": 3}, '"system" is a JSON number'),
        ("prompt_completion", {"prompt": "x", "completion": [HO]}, '"completion" a list; both'),
        ("prompt_completion", {"prompt": [], "completion": [HO]}, '"prompt" is empty'),
        ("prompt_completion", {"prompt": ["x"], "completion": [HO]}, '"prompt[0]" is a JSON str'),
        (
            "prompt_completion",
            {"prompt": [HI], "completion": [{"role": "assistant"}]},
            '"completion[0].content" is missing',
        ),
        ("prompt_completion", {"prompt": [HI], "completion": [HI]}, '"completion[0].role" is'),
        ("prompt_completion", {"prompt": [HI], "completion": [HO, HI]}, "no answer to learn"),
    ],
)
def test_other_faults_are_told(schema, record, reason):
    with pytest.raises(Refused) as caught:
        SCHEMAS[schema].turns(record)
    assert reason in str(caught.value)
